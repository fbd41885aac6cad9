"""One page out of many overlapping blocks, reading as few blocks as possible.

Console chunks and scalar chunks are both stored as blocks that know the smallest and the largest key inside. Keys are
client timestamps or iterations, so blocks of different workers or different series overlap. Blocks are offered in the
order of their nearest key; an item is final once no unread block can hold a nearer one.

A page always ends with all items that share its last key, because the next page is asked for by "after this key".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Generic[Item]):
    """A stored chunk: its key range, when it was written relative to others, and how to read it."""

    low: int
    high: int
    order: int
    read: Callable[[], Sequence[tuple[int, Item]]]


class _Found(NamedTuple, Generic[Item]):
    key: int
    order: int
    place: int
    item: Item


def first_after(blocks: Iterable[Block[Item]], after: int | None, size: int) -> list[tuple[int, Item]]:
    """Return at least `size` items with the smallest keys strictly above `after`, in ascending order.

    `blocks` must come in ascending order of `low`. Items with equal keys come in the order in which they were written.
    """
    found: list[_Found[Item]] = []
    for block in blocks:
        if len(found) >= size and sum(1 for row in found if row.key < block.low) >= size:
            break
        found.extend(row for row in _rows(block) if after is None or row.key > after)
    found.sort(key=lambda row: row[:3])
    return _page(found, size)


def last_before(blocks: Iterable[Block[Item]], before: int | None, size: int) -> list[tuple[int, Item]]:
    """Return at least `size` items with the largest keys strictly below `before`, newest first.

    `blocks` must come in descending order of `high`. The page reversed is what `first_after` would give.
    """
    found: list[_Found[Item]] = []
    for block in blocks:
        if len(found) >= size and sum(1 for row in found if row.key > block.high) >= size:
            break
        found.extend(row for row in _rows(block) if before is None or row.key < before)
    found.sort(key=lambda row: row[:3], reverse=True)
    return _page(found, size)


def _rows(block: Block[Item]) -> list[_Found[Item]]:
    return [_Found(key, block.order, place, item) for place, (key, item) in enumerate(block.read())]


def _page(found: Sequence[_Found[Item]], size: int) -> list[tuple[int, Item]]:
    end = min(size, len(found))
    while 0 < end < len(found) and found[end].key == found[end - 1].key:
        end += 1
    return [(row.key, row.item) for row in found[:end]]
