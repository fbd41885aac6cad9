"""Which page of the answer a request wants: by number, by start and size, or by a scroll id.

A scroll id holds the offset and the shape of the query it was made for, and continues no other one.
"""

from __future__ import annotations

from .. import errors
from ..fields import Fields
from ..scroll import ScrollIds, fingerprint

MOST_PER_PAGE = 500


def page_of(data: Fields, scroll: ScrollIds | None) -> tuple[int, int, bool]:
    """Offset, limit, and whether the caller scrolls."""
    if "size" in data:
        size = min(data.integer("size", least=1), MOST_PER_PAGE)
        if "start" in data:
            return data.integer("start", least=0), size, False
        return _scrolled_to(data, scroll), size, True
    if data.get("scroll_id"):
        raise errors.VALIDATION("missing required field: size", field="size")
    limit = min(data.integer("page_size", MOST_PER_PAGE, least=1), MOST_PER_PAGE)
    return data.integer("page", 0, least=0) * limit, limit, False


def _scrolled_to(data: Fields, scroll: ScrollIds | None) -> int:
    scroll_id = data.text_or("scroll_id", "")
    if not scroll_id or scroll is None or data.flag("refresh_scroll", False):
        return 0
    state = scroll.unpack(scroll_id)
    if state.get("query") != shape_of(data) or not isinstance(state.get("offset"), int):
        raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id)
    return int(state["offset"])


def shape_of(data: Fields) -> str:
    """What two requests of one scroll have in common."""
    return fingerprint(
        {key: value for key, value in data.items() if key not in {"scroll_id", "refresh_scroll", "method"}}
    )
