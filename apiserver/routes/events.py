"""`events.*`: taking in what tasks report, and reading their consoles.

Curves are in `event_curves`, plots and images in `event_documents`, and reading everything in `event_pages`.
"""

from __future__ import annotations

from typing import Any

from .. import errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..events.console import LogLine
from ..events.incoming import BatchRefusedError, EventType
from ..events.points import iso_time
from ..fields import Fields
from ..store import console, event_batches, events
from ..store.database import Session, Transaction
from ..store.scalars import Wanted
from .event_requests import require, require_open, wanted_metrics

_ORDERS = frozenset({"asc", "desc"})


@endpoint("events.add", keep_nan=True)
async def add(call: Call, data: Fields) -> Reply:
    """Store one event: the body is the event."""
    return await _add(call, [dict(data)])


@endpoint("events.add_batch", batch=True, keep_nan=True)
async def add_batch(call: Call, data: Fields) -> Reply:
    """Store a batch of events, one per line."""
    items = call.batch if call.batch is not None else data.get("events") or [dict(data)]
    return await _add(call, items)


async def _add(call: Call, items: list[Any]) -> Reply:
    try:
        prepared = await call.read(
            lambda tx: event_batches.prepare(tx, items, company=call.company, worker=call.worker)
        )
    except BatchRefusedError as error:
        raise errors.Problem(400, error.subcode, str(error))() from error
    judged = prepared.judged
    if not judged.accepted:
        raise errors.EVENTS_NOT_ADDED(**judged.refusals)
    await call.write(lambda tx: event_batches.add(tx, prepared))
    return {"added": len(judged.accepted), "errors": judged.refused, "errors_info": dict(judged.refusals)}


@endpoint("events.delete_for_task")
async def delete_for_task(call: Call, data: Fields) -> Reply:
    """Delete everything a task has reported."""
    task_id, allow_locked = data.ident("task"), data.flag("allow_locked", False)

    def change(tx: Transaction) -> int:
        require_open(tx, call, task_id, allow_locked=allow_locked)
        return events.delete_for_task(tx, task_id)

    return {"deleted": await call.write(change)}


@endpoint("events.delete_for_model")
async def delete_for_model(call: Call, data: Fields) -> Reply:
    """Delete everything that was reported about a model."""
    model_id, allow_locked = data.ident("model"), data.flag("allow_locked", False)

    def change(tx: Transaction) -> int:
        require_open(tx, call, model_id, of_model=True, allow_locked=allow_locked)
        return events.delete_for_model(tx, model_id)

    return {"deleted": await call.write(change)}


@endpoint("events.clear_scroll")
async def clear_scroll(call: Call, data: Fields) -> Reply:
    """End a scroll. There is nothing to forget, because a scroll lives in its id."""
    call.services.scroll.unpack(data.ident("scroll_id"))
    return {}


@endpoint("events.clear_task_log")
async def clear_task_log(call: Call, data: Fields) -> Reply:
    """Delete a task's console, or the part that is older than some seconds."""
    task_id, allow_locked = data.ident("task"), data.flag("allow_locked", False)
    kept_seconds = data.integer("threshold_sec", 0, least=0)

    def change(tx: Transaction) -> int:
        require_open(tx, call, task_id, allow_locked=allow_locked)
        return console.clear_lines(tx, task_id, before=tx.now_ms - kept_seconds * 1000 if kept_seconds else None)

    return {"deleted": await call.write(change)}


@endpoint("events.get_task_log")
async def get_task_log(call: Call, data: Fields) -> Reply:
    """Read a page of the console: backwards from the end unless told otherwise."""
    task_id = data.ident("task")
    size = data.integer("batch_size", 5_000, least=1)
    start = data.integer("from_timestamp") if "from_timestamp" in data else None
    earlier = data.flag("navigate_earlier", True)
    order = data.one_of("order", _ORDERS, "desc" if earlier else "asc")
    wanted = wanted_metrics(data.objects("metrics"))

    def question(tx: Session) -> Reply:
        require(tx, call, tasks=[task_id])
        read = console.lines_before if earlier else console.lines_after
        lines = read(tx, task_id, start, size)
        if earlier == (order == "asc"):
            lines.reverse()
        found = [log_event(task_id, line) for line in lines if _is_wanted(line, wanted)]
        return {"events": found, "returned": len(found), "total": console.count_lines(tx, task_id)}

    return await call.read(question)


def log_event(task_id: str, line: LogLine) -> Reply:
    event = {
        "type": EventType.LOG.value,
        "task": task_id,
        "timestamp": line.timestamp,
        "@timestamp": iso_time(line.received),
        "worker": line.worker,
        "level": line.level,
        "msg": line.msg,
    }
    if line.metric or line.variant:
        event |= {"metric": line.metric, "variant": line.variant}
    return event


def _is_wanted(line: LogLine, wanted: Wanted) -> bool:
    return wanted is None or (
        line.metric in wanted and (not wanted[line.metric] or line.variant in wanted[line.metric])
    )
