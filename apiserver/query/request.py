"""From the fields of a request to a query, once; whatever cannot be understood is refused here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import errors
from ..fields import Fields
from ..scroll import ScrollIds
from .comparisons import date_conditions, equal_condition, range_conditions
from .condition import Condition
from .entity import Entity
from .lists import list_conditions
from .order import Order, order_of
from .paging import MOST_PER_PAGE, page_of, shape_of
from .patterns import pattern_condition
from .projection import projection_of
from .searches import ALL, ANY, filter_conditions, search_condition, several_condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A parsed request."""

    conditions: tuple[Condition, ...] = ()
    order: Order = ()
    offset: int = 0
    limit: int = MOST_PER_PAGE
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    scrolls: bool = False
    shape: str = ""  # fingerprint of what a scroll id belongs to

    def next_scroll_id(self, scroll: ScrollIds, count: int) -> str | None:
        """The id that continues after this page; None when the caller does not scroll."""
        return scroll.pack({"offset": self.offset + count, "query": self.shape}) if self.scrolls else None


def parse(data: Fields, entity: Entity, *, scroll: ScrollIds | None = None) -> Query:
    """Read a request; refuses what cannot be understood."""
    only, without = projection_of(data, entity)
    offset, limit, scrolls = page_of(data, scroll)
    return Query(
        conditions=tuple(_conditions(data, entity)),
        order=order_of(data, entity),
        offset=offset,
        limit=limit,
        only=only,
        without=without,
        scrolls=scrolls,
        shape=shape_of(data) if scrolls else "",
    )


def _conditions(data: Fields, entity: Entity) -> Iterable[Condition]:
    for name in data:
        if _named(name, entity.patterns) and isinstance(data[name], str):
            yield pattern_condition(name, data[name], entity)
        elif _named(name, entity.lists):
            yield from list_conditions(name, data[name], entity)
        elif _named(name, entity.ranges):
            yield from range_conditions(name, data[name], entity)
        elif _named(name, entity.dates):
            yield from date_conditions(name, data[name], entity)
        elif _named(name, entity.equal):
            yield equal_condition(name, data[name], entity)
        elif name in entity.patterns:
            raise errors.VALIDATION("expected a string", field=name)
        elif name in ANY or name in ALL:
            yield several_condition(name, data.mapping(name), entity)
        elif name == "filters":
            yield from filter_conditions(data.mapping(name), entity)
        elif name == "search_text":
            yield search_condition(data.text(name), entity)


def _named(name: str, known: frozenset[str]) -> bool:
    """Whether a field is in a set of names, of which some end in `.*`."""
    if name in known:
        return True
    parts = name.split(".")
    return any(".".join(parts[:cut]) + ".*" in known for cut in range(1, len(parts)))
