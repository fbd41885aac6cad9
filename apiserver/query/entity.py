"""What a kind of record tells the query language about itself.

Each store module describes its records once (`TASKS`, `QUEUES`, ...): the fields on the wire, the columns they are made
of, and which of them can be filtered in which way. Everything else in this package works from that description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from .. import errors
from ..store.database import Row
from .paths import field_of

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A kind of record: its fields on the wire, where they are stored, and which filters exist for them."""

    table: sa.Table
    fields: Mapping[str, tuple[ColumnElement[Any], ...]]  # top-level field → the columns it is made of
    source: Callable[[set[str]], FromClause]  # the tables that hold these fields
    document: Callable[[Row, Iterable[str]], Document]  # a row with these fields as the wire shows it
    columns: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)  # path → plain column, beyond `fields`
    patterns: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    ranges: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    equal: frozenset[str] = frozenset()
    search: frozenset[str] = frozenset({"id", "name"})
    tolerated: frozenset[str] = frozenset()  # fields of the real server that we never have
    choices: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def column(self, path: str) -> ColumnElement[Any] | None:
        """The plain column behind a path, when there is one that SQL can compare."""
        if path in self.columns:
            return self.columns[path]
        made_of = self.fields.get(path, ())
        if len(made_of) == 1 and not isinstance(made_of[0].type, sa.JSON):
            return made_of[0]
        return None

    def require(self, path: str, what: str) -> None:
        """Refuse a path whose first part is no field."""
        top = field_of(path)
        if top not in self.fields and top not in self.tolerated and not top.startswith("@"):
            raise errors.UNKNOWN_FIELD(what, field=path)
