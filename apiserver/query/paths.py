"""Dotted paths into documents, such as `execution.queue` or `hyperparams.Args.lr.value`.

The first part is a field of the record; the others lead through its dictionaries and, where a caller wants all values,
through lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import errors


def path_of(name: str) -> tuple[str, ...]:
    """A dotted path; `%2E` and `%24` inside a part stand for `.` and `$` of a key."""
    return tuple(part.replace("%2E", ".").replace("%24", "$") for part in name.split("."))


def field_of(name: str) -> str:
    """The field of the record in which a dotted path begins."""
    return name.partition(".")[0]


def names_in(value: Any, field: str) -> list[str]:
    """The paths that a request names in this field: a list of them, or just one."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise errors.VALIDATION("expected a list of strings", field=field)
    return names


def dig(document: Any, path: Sequence[str]) -> Any:
    """The value at a path of dictionary keys, or None."""
    for part in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(part)
    return document


def values_at(document: Any, path: Sequence[str]) -> list[Any]:
    """All values at a path, through lists on the way and at its end; none is an empty list."""
    if isinstance(document, list):
        return [value for item in document for value in values_at(item, path)]
    if not path:
        return [] if document is None else [document]
    if not isinstance(document, Mapping):
        return []
    return values_at(document.get(path[0]), path[1:])


def text_at(document: Any, path: Sequence[str]) -> str:
    """The text at a path; empty when there is something else, or nothing."""
    value = dig(document, path)
    return value if isinstance(value, str) else ""
