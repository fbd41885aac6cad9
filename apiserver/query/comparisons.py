"""Filters that compare one value: ranges, dates and plain equality.

Dates are brought to the form in which they are stored, so that comparing texts compares times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from .. import clock, errors
from .condition import Condition, Test, needs
from .entity import Document, Entity
from .paths import dig, path_of


def equal_condition(name: str, value: Any, entity: Entity) -> Condition:
    """A field that has exactly this value."""
    column = entity.column(name)
    if column is not None and isinstance(value, str | int | float | bool):
        return Condition(sql=column == value)
    path = path_of(name)
    return Condition(test=lambda doc: dig(doc, path) == value, needs=needs(name))


def range_conditions(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    """A number or date between two bounds, of which either may be null."""
    if not isinstance(value, list) or len(value) != 2:
        raise errors.VALIDATION("expected a list of two values", field=name)
    low, high = (_bound(name, end) for end in value)
    if low is None and high is None:
        return
    column = entity.column(name)
    if column is not None:
        parts = [column >= low] if low is not None else []
        yield Condition(sql=sa.and_(*parts, column <= high) if high is not None else sa.and_(*parts))
        return
    path = path_of(name)

    def inside(doc: Document) -> bool:
        found = dig(doc, path)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return False
        return (low is None or found >= low) and (high is None or found <= high)

    yield Condition(test=inside, needs=needs(name))


def _bound(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return _date(name, value)
    raise errors.VALIDATION("expected a number or a date", field=name)


def date_conditions(name: str, value: Any, entity: Entity) -> Iterable[Condition]:
    """A date against each of some comparisons."""
    column = entity.column(name)
    for compare, bound in date_bounds(name, value):
        if column is not None:
            yield Condition(sql=compare(column, bound))
        else:
            path = path_of(name)
            yield Condition(test=_date_test(path, compare, bound), needs=needs(name))


def _date_test(path: tuple[str, ...], compare: Callable[[Any, Any], Any], bound: str) -> Test:
    return lambda doc: bool((found := dig(doc, path)) and compare(found, bound))


_COMPARISONS: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    (">=", lambda a, b: a >= b),
    ("<=", lambda a, b: a <= b),
    (">", lambda a, b: a > b),
    ("<", lambda a, b: a < b),
)


def date_bounds(name: str, value: Any) -> list[tuple[Callable[[Any, Any], Any], str]]:
    """Comparisons with dates: `[">=2026-01-01", ...]`, or exactly two plain dates as an inclusive range."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise errors.VALIDATION("expected a list of dates", field=name)
    plain = [text for text in texts if not text.startswith((">", "<"))]
    if plain:
        if len(plain) != 2 or len(texts) != 2:
            raise errors.BAD_QUERY_VALUE("expected two dates, or dates with an operator", field=name)
        texts = [f">={texts[0]}", f"<={texts[1]}"]
    bounds = []
    for text in texts:
        sign, compare = next((sign, compare) for sign, compare in _COMPARISONS if text.startswith(sign))
        bounds.append((compare, _date(name, text[len(sign) :].strip())))
    return bounds


def _date(name: str, text: str) -> str:
    try:
        return clock.normalised(text)
    except (ValueError, OverflowError):
        raise errors.BAD_QUERY_VALUE("expected a date", field=name, value=text) from None
