"""Workers: registering, reporting, and the runtime properties that steer them."""

from __future__ import annotations

from typing import Any

from .. import clock, errors, task_fields
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document
from ..store import queues, tasks
from ..store import workers as store
from ..store.database import Session, Transaction
from ..workers import Worker, queue_ids

LAST_SEEN_SECONDS = 3600

# --- from the workers ---


@endpoint("workers.register")
async def register(call: Call, data: Fields) -> Reply:
    """A worker is there, and listens to these queues."""
    timeout = data.integer("timeout", 0 if "timeout" in data else call.services.config.worker_timeout_seconds)
    if timeout <= 0:
        raise errors.WORKER_REGISTRATION_FAILED("invalid timeout", timeout=timeout)
    worker = Worker(
        id=data.ident("worker"),
        company=call.company,
        user=call.user,
        user_name=call.identity.user_name,
        ip=call.ip,
        queues=list(dict.fromkeys(data.strings("queues"))),
        tags=task_fields.tags_in(data),
        system_tags=task_fields.tags_in(data, "system_tags"),
        timeout=timeout,
    )
    if worker.queues:
        await call.read(lambda tx: queues.require_all(tx, worker.queues, call.company))
    await call.services.workers.register(worker)
    return {}


@endpoint("workers.unregister")
async def unregister(call: Call, data: Fields) -> Reply:
    """A worker is gone; one that is not known is gone already."""
    await call.services.workers.unregister(call.company, data.ident("worker"))
    return {}


@endpoint("workers.status_report")
async def status_report(call: Call, data: Fields) -> Reply:
    """A worker tells how it is and what it runs. The entry is refreshed even when the report is refused."""
    worker_id = data.ident("worker")
    data.number("timestamp")
    stats = _machine_stats(data)
    entry = call.services.workers.reported(
        call.company, worker_id, user=call.user, user_name=call.identity.user_name, ip=call.ip
    )
    if "tags" in data:
        entry.tags = task_fields.tags_in(data)
    if "system_tags" in data:
        entry.system_tags = task_fields.tags_in(data, "system_tags")
    entry.machine_stats = stats or entry.machine_stats
    entry.task, entry.project, entry.queue = None, None, data.text_or_none("queue") or None
    task_id, listed = data.text_or("task", ""), data.strings("queues")
    if listed and listed != entry.queues:
        await call.read(lambda tx: queues.require_all(tx, listed, call.company))
        entry.queues = list(dict.fromkeys(listed))
    if task_id:
        found = await call.write(lambda tx: tasks.report_from_worker(tx, task_id, worker_id, call.company))
        entry.task, entry.task_name, entry.project = task_id, found["name"], found["project"]
    return {}


def _machine_stats(data: Fields) -> Document:
    stats = data.mapping("machine_stats")
    for name, value in stats.items():
        values = value if isinstance(value, list) else [value]
        if not all(item is None or (isinstance(item, int | float) and not isinstance(item, bool)) for item in values):
            raise errors.VALIDATION("expected a number or a list of numbers", field=f"machine_stats.{name}")
    return stats


# --- about the workers ---


def _selected(call: Call, data: Fields, last_seen: float) -> list[Worker]:
    return call.services.workers.select(
        call.company,
        last_seen=data.number("last_seen", last_seen, least=0),
        pattern=data.text_or("worker_pattern", ""),
        tags=data.strings("tags"),
        system_tags=data.strings("system_tags"),
    )


@endpoint("workers.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """The workers heard of lately, with what they run and what waits for them."""
    found = _selected(call, data, LAST_SEEN_SECONDS)
    if not found:
        return {"workers": []}

    def ask(tx: Session) -> list[Document]:
        waiting = queues.summaries(tx, queue_ids(found))
        running = tasks.names(tx, (worker.task for worker in found if worker.task))
        return [_joined(worker, waiting, running, tx.moment) for worker in found]

    return {"workers": await call.read(ask)}


def _joined(worker: Worker, waiting: dict[str, Document], running: dict[str, Document], now: float) -> Document:
    shown = worker.on_the_wire()
    if worker.machine_stats:
        shown["machine_stats"] = worker.machine_stats  # ours: what the web page shows as the load
    shown["queues"] = [waiting.get(queue, {"id": queue}) for queue in worker.queues]
    if worker.queue:
        shown["queue"] = waiting.get(worker.queue, {"id": worker.queue})
    task = running.get(worker.task or "")
    if task is not None:
        shown["task"] = {"id": task["id"], "name": task["name"], "last_iteration": task["last_iteration"]}
        if task["started"]:
            shown["task"]["running_time"] = max(int((now - clock.seconds(task["started"])) * 1000), 0)
        if task["project"]:
            shown["project"] = {"id": task["project"]}
    return shown


@endpoint("workers.get_count")
async def get_count(call: Call, data: Fields) -> Reply:
    """How many workers there are."""
    return {"count": len(_selected(call, data, 0))}


# --- runtime properties ---


@endpoint("workers.get_runtime_properties")
async def get_runtime_properties(call: Call, data: Fields) -> Reply:
    """The properties in force; none for a worker that nobody heard of."""
    worker_id = data.ident("worker")

    def ask(tx: Session) -> list[Document]:
        return [known.on_the_wire(tx.moment) for known in store.properties(tx, call.company, worker_id)]

    return {"runtime_properties": await call.read(ask)}


@endpoint("workers.set_runtime_properties")
async def set_runtime_properties(call: Call, data: Fields) -> Reply:
    """Set properties for some seconds or for good; they outlive the worker's registration.

    Ours: `if_value` sets a property only while it has that value (null-like empty text: while it is not set).
    """
    worker_id, items = data.ident("worker"), data.objects("runtime_properties")
    if not items:
        raise errors.VALIDATION("list must not be empty", field="runtime_properties")
    wanted = [_property(item) for item in items]

    def change(tx: Transaction) -> int:
        return sum(_set(tx, call.company, worker_id, item) for item in wanted)

    return {"added": await call.write(change)}


def _property(item: Fields) -> dict[str, Any]:
    value = item.get("value", "")
    if not isinstance(value, str | int | float | bool):
        raise errors.VALIDATION("expected a scalar", field="value")
    expiry = item.number("expiry", least=0) if "expiry" in item else None
    return {"key": item.ident("key"), "value": str(value), "expiry": expiry, "if_value": item.text_or_none("if_value")}


def _set(tx: Transaction, company: str, worker_id: str, item: dict[str, Any]) -> int:
    if item["if_value"] is not None:
        present = store.property_value(tx, company, worker_id, item["key"]) or ""
        if present != item["if_value"]:
            return 0
    store.set_property(tx, company, worker_id, item["key"], item["value"], expiry=item["expiry"])
    return 1
