"""Filters by a list of values, with inclusion, exclusion and the operators of the protocol.

    tags: ["a", "b"]                 any of them
    tags: ["a", "-b"]                a and not b
    tags: ["__$all", "a", "b"]       both
    tags: ["__$not", null]           any tag at all

A group answers in SQL where a plain column and IN suffice, and in Python for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from .. import errors
from .condition import Condition, needs
from .entity import Entity
from .paths import path_of, values_at


def list_conditions(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    """A field against a list of values; none when the list filters nothing."""
    group = list_filter(name, value)
    if group is None:
        return
    allowed = entity.choices.get(name)
    if allowed is not None:
        for wanted in (*group.any_of, *group.all_of, *group.none_of):
            if wanted not in allowed:
                raise errors.VALIDATION("unknown value", field=name, value=wanted)
    yield _group_condition(name, group, entity)


@dataclass(slots=True)
class Group:
    """What a list filter asks for; the parts are ANDed."""

    any_of: list[Any] = field(default_factory=list)
    all_of: list[Any] = field(default_factory=list)
    none_of: list[Any] = field(default_factory=list)
    or_empty: bool = False
    not_empty: bool = False

    @property
    def is_plain(self) -> bool:
        """Only inclusion or exclusion, as SQL says with IN."""
        return not self.all_of and not self.not_empty

    def matches(self, values: list[Any]) -> bool:
        """Whether a record with these values is wanted."""
        present = [value for value in values if value not in (None, "")]
        if any(value in present for value in self.none_of) or (self.not_empty and not present):
            return False
        if not all(value in present for value in self.all_of):
            return False
        if self.or_empty and not present:
            return True
        return any(value in present for value in self.any_of) if self.any_of or self.or_empty else True


_OPERATORS = {"__$all": "all", "__$and": "all", "__$any": "any", "__$or": "any", "__$nop": "any", "__$not": "not"}


def list_filter(name: str, value: Any) -> Group | None:
    """Read a list filter with its operators; None when it filters nothing (an empty list)."""
    values = value if isinstance(value, list) else [value]
    group, context, negate = Group(), "any", False
    for item in values:
        if isinstance(item, str) and item.startswith("__$"):
            operator = _OPERATORS.get(item)
            if operator is None:
                raise errors.BAD_QUERY_VALUE("unknown operator", field=name, value=item)
            if operator == "not":
                negate = True
            else:
                context, negate = operator, False
            continue
        if not isinstance(item, str | int | float | None):
            raise errors.VALIDATION("expected a list of values", field=name)
        if isinstance(item, str) and not negate and item.startswith("-"):
            group.none_of.append(item[1:])
        elif item is None:
            group.or_empty, group.not_empty = group.or_empty or not negate, group.not_empty or negate
        elif negate:
            group.none_of.append(item)
        else:
            (group.all_of if context == "all" else group.any_of).append(item)
        negate = False
    return group if values else None


def _group_condition(name: str, group: Group, entity: Entity) -> Condition:
    column = entity.column(name)
    if column is not None and group.is_plain:
        return Condition(sql=_group_sql(column, group))
    path = path_of(name)
    return Condition(test=lambda doc: group.matches(values_at(doc, path)), needs=needs(name))


def _group_sql(column: ColumnElement[Any], group: Group) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if group.any_of:
        included = column == group.any_of[0] if len(group.any_of) == 1 else column.in_(group.any_of)
        parts.append(sa.or_(included, column.is_(None)) if group.or_empty else included)
    elif group.or_empty:
        parts.append(column.is_(None))
    if group.none_of:
        parts.append(sa.or_(column.is_(None), column.not_in(group.none_of)))
    return sa.and_(sa.true(), *parts)
