"""What every filter becomes, whatever it looked like in the request.

A condition is either SQL or a test on a document; the test says which fields it looks at, so that no others are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.sql.elements import ColumnElement

from .entity import Document
from .paths import field_of

Test = Callable[[Document], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One filter: as SQL, or as a test on a document with these fields loaded."""

    sql: ColumnElement[bool] | None = None
    test: Test | None = None
    needs: frozenset[str] = frozenset()


def needs(*names: str) -> frozenset[str]:
    """The fields that a test on these paths looks at."""
    return frozenset(map(field_of, names))
