"""The `*_many` form: one change for each id, failures reported per id, never an error for the whole."""

from __future__ import annotations

from collections.abc import Callable

from ..calls import Call
from ..endpoints import Reply
from ..errors import ApiError
from ..fields import Fields
from ..query import Document
from ..store.database import Transaction


async def each(call: Call, data: Fields, change: Callable[[Transaction, str], Document]) -> Reply:
    """Apply a change to every id of the request; each is undone alone when it is refused."""
    succeeded, failed = [], []
    for record in data.idents("ids"):
        try:
            reply = await call.write(lambda tx, record=record: change(tx, record))  # type: ignore[misc]
            succeeded.append({"id": record, **reply})
        except ApiError as error:
            shown = {"codes": [error.code, error.subcode], "msg": error.text, "data": error.data}
            failed.append({"id": record, "error": shown})
    return {"succeeded": succeeded, "failed": failed}
