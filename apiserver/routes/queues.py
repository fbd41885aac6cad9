"""Queues: what they are, and what waits in them; taking the next task is in `next_task.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from .. import errors, task_fields
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document, Query, fetch, parse, project
from ..store import queues, task_status, tasks
from ..store.database import Session, Transaction
from ..store.queues import Entry
from ..store.schema import queue

HIDDEN_TAG = "k8s-glue"

# --- asking ---


@endpoint("queues.get_by_id")
async def get_by_id(call: Call, data: Fields) -> Reply:
    """The queue with what waits in it."""
    queue_id, most = data.ident("queue"), _most_entries(data)

    def ask(tx: Session) -> Document:
        found = queues.find(tx, queue_id, call.company)
        return {**found, "entries": queues.entries(tx, [queue_id], most)[queue_id]}

    return {"queue": await call.read(ask)}


def _most_entries(data: Fields) -> int | None:
    return data.integer("max_task_entries", least=0) if "max_task_entries" in data else None


@endpoint("queues.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """Queues by query, with entries unless projected away; deleted ones, when asked for by id, as force_workers:off."""
    query = parse(data, queues.QUEUES, scroll=call.services.scroll)
    most, ids = _most_entries(data), data.get("id")
    asked_for = [item for item in (ids if isinstance(ids, list) else [ids]) if isinstance(item, str)]

    def ask(tx: Session) -> list[Document]:
        found = fetch(tx, queues.QUEUES, query, *_visible(call, data))
        if _wants_entries(query):
            _add_entries(tx, found, most)
        if asked_for and "name" not in data and query.offset == 0:
            missing = [item for item in asked_for if item not in {one["id"] for one in found}]
            found += [project(tomb, query.only, query.without) for tomb in queues.tombstones(tx, missing, call.company)]
        return found

    found = await call.read(ask)
    scroll_id = query.next_scroll_id(call.services.scroll, len(found))
    return {"queues": found} if scroll_id is None else {"queues": found, "scroll_id": scroll_id}


def _visible(call: Call, data: Fields) -> list[sa.ColumnElement[bool]]:
    """The company's queues, without those that the Kubernetes glue keeps for itself unless they are asked for."""
    conditions: list[sa.ColumnElement[bool]] = [queue.c.company == call.company]
    if not ({"id", "name"} & data.keys() or data.flag("search_hidden", False)):
        conditions.append(sa.cast(queue.c.system_tags, sa.Text).not_like(f'%"{HIDDEN_TAG}"%'))
    return conditions


def _wants_entries(query: Query) -> bool:
    if "entries" in query.without:
        return False
    return not query.only or any(name.partition(".")[0] == "entries" for name in query.only)


def _add_entries(tx: Session, found: list[Document], most: int | None) -> None:
    waiting = queues.entries(tx, [one["id"] for one in found], most)
    for one in found:
        one["entries"] = waiting[one["id"]]


@endpoint("queues.get_all_ex")
async def get_all_ex(call: Call, data: Fields) -> Reply:
    """Queues with the names of waiting tasks and with the workers that listen."""
    query, most = parse(data, queues.QUEUES, scroll=call.services.scroll), _most_entries(data)

    def ask(tx: Session) -> list[Document]:
        found = fetch(tx, queues.QUEUES, query, *_visible(call, data))
        _add_entries(tx, found, most)
        named = tasks.names(tx, (entry["task"] for one in found for entry in one["entries"]))
        for one in found:
            one["entries"] = [_named_entry(entry, named) for entry in one["entries"]]
            one["num_entries"] = queues.length(tx, one["id"])
        return found

    found = await call.read(ask)
    for one in found:
        one["workers"] = call.services.workers.briefly(one["id"])
    scroll_id = query.next_scroll_id(call.services.scroll, len(found))
    return {"queues": found} if scroll_id is None else {"queues": found, "scroll_id": scroll_id}


def _named_entry(entry: Document, named: Mapping[str, Document]) -> Document:
    name = named.get(entry["task"], {}).get("name", "")
    return {"task": {"id": entry["task"], "name": name}, "added": entry["added"]}


@endpoint("queues.get_default")
async def get_default(call: Call, data: Fields) -> Reply:
    """The queue tagged as default."""
    return await call.read(lambda tx: queues.default(tx, call.company))


@endpoint("queues.get_num_entries")
async def get_num_entries(call: Call, data: Fields) -> Reply:
    """How many tasks wait."""
    queue_id = data.ident("queue")

    def ask(tx: Session) -> int:
        queues.require(tx, queue_id, call.company)
        return queues.length(tx, queue_id)

    return {"num": await call.read(ask)}


@endpoint("queues.peek_task")
async def peek_task(call: Call, data: Fields) -> Reply:
    """The id of the first task."""
    queue_id = data.ident("queue")

    def ask(tx: Session) -> Entry | None:
        queues.require(tx, queue_id, call.company)
        return queues.heads(tx, [queue_id])

    head = await call.read(ask)
    return {"task": head.task if head else None}


# --- what a queue is ---


def _changes(data: Fields) -> dict[str, Any]:
    changes: dict[str, Any] = {name: data.text(name) for name in ("name", "display_name") if name in data}
    changes |= {name: task_fields.tags_in(data, name) for name in ("tags", "system_tags") if name in data}
    if "metadata" in data:
        changes["metadata"] = data.mapping("metadata")
    return changes


@endpoint("queues.create")
async def create(call: Call, data: Fields) -> Reply:
    """A new queue."""
    data.text("name")
    changes = _changes(data)
    return {"id": await call.write(lambda tx: queues.create(tx, **changes, company=call.company, user=call.user))}


@endpoint("queues.update")
async def update(call: Call, data: Fields) -> Reply:
    """Rename or tag a queue."""
    queue_id, changes = data.ident("queue"), _changes(data)
    return {
        "updated": await call.write(lambda tx: queues.update(tx, queue_id, call.company, dict(changes))),
        "fields": changes,
    }


@endpoint("queues.delete")
async def delete(call: Call, data: Fields) -> Reply:
    """Remove a queue. Not while tasks wait in it or live workers listen to it, unless forced."""
    queue_id, force = data.ident("queue"), data.flag("force", False)
    listening = call.services.workers.listening_to(queue_id)

    def change(tx: Transaction) -> None:
        known = queues.find(tx, queue_id, call.company)
        if not force and queues.length(tx, queue_id):
            raise errors.QUEUE_NOT_EMPTY("use force", id=queue_id)
        if not force and listening:
            raise errors.QUEUE_NOT_EMPTY("queue has workers, use force", id=queue_id)
        for entry in queues.delete(tx, queue_id, call.company):
            _send_back(tx, entry.task, call, f"Queue {known['name']} was deleted")

    await call.write(change)
    return {"deleted": 1}


def _send_back(tx: Transaction, task: str, call: Call, reason: str) -> None:
    if tasks.existing(tx, [task], call.company):
        task_status.send_back(tx, task, task_status.Asked(company=call.company, user=call.user, reason=reason))


@endpoint("queues.clear_queue")
async def clear_queue(call: Call, data: Fields) -> Reply:
    """Send everything that waits back to where it was."""
    queue_id = data.ident("queue")

    def change(tx: Transaction) -> list[str]:
        known = queues.find(tx, queue_id, call.company)
        dropped = queues.clear(tx, queue_id)
        for entry in dropped:
            _send_back(tx, entry.task, call, f"Queue {known['name']} was cleared")
        return [entry.task for entry in dropped]

    return {"removed_tasks": await call.write(change)}


@endpoint("queues.add_or_update_metadata")
async def add_or_update_metadata(call: Call, data: Fields) -> Reply:
    """Set metadata items."""
    queue_id, replace = data.ident("queue"), data.flag("replace_metadata", False)
    items = {item.ident("key"): dict(item) for item in data.objects("metadata")}

    def change(tx: Transaction) -> int:
        known = {} if replace else queues.find(tx, queue_id, call.company).get("metadata", {})
        return queues.update(tx, queue_id, call.company, {"metadata": {**known, **items}})

    return {"updated": await call.write(change)}


@endpoint("queues.delete_metadata")
async def delete_metadata(call: Call, data: Fields) -> Reply:
    """Delete metadata items by key."""
    queue_id, keys = data.ident("queue"), set(data.idents("keys"))

    def change(tx: Transaction) -> int:
        known = queues.find(tx, queue_id, call.company).get("metadata", {})
        kept = {key: item for key, item in known.items() if key not in keys}
        return queues.update(tx, queue_id, call.company, {"metadata": kept})

    return {"updated": await call.write(change)}


# --- what waits ---


@endpoint("queues.add_task")
async def add_task(call: Call, data: Fields) -> Reply:
    """Append a task without looking at its status."""
    queue_id, task_id = data.ident("queue"), data.ident("task")
    update = data.flag("update_execution_queue", True)

    def change(tx: Transaction) -> None:
        queues.require(tx, queue_id, call.company)
        tasks.row(tx, task_id, call.company)
        queues.append(tx, queue_id, task_id)
        if update:
            tasks.set_execution_queue(tx, task_id, queue_id)

    await call.write(change)
    return {"added": 1}


@endpoint("queues.remove_task")
async def remove_task(call: Call, data: Fields) -> Reply:
    """Take a task out; its status stays unless asked otherwise."""
    queue_id, task_id = data.ident("queue"), data.ident("task")
    update = data.flag("update_task_status", False)

    def change(tx: Transaction) -> None:
        queues.require(tx, queue_id, call.company)
        if not queues.remove(tx, task_id, queue_id):
            raise errors.NOT_IN_QUEUE(queue=queue_id, task=task_id)
        if update:
            _send_back(tx, task_id, call, "")

    await call.write(change)
    return {"removed": 1}


async def _move(call: Call, data: Fields, direction: int) -> Reply:
    queue_id, task_id = data.ident("queue"), data.ident("task")
    places = data.integer("count", 1, least=1)

    def change(tx: Transaction) -> int:
        queues.require(tx, queue_id, call.company)
        return queues.move_by(tx, queue_id, task_id, direction * places)

    return {"position": await call.write(change)}


@endpoint("queues.move_task_forward")
async def move_task_forward(call: Call, data: Fields) -> Reply:
    """Towards the front."""
    return await _move(call, data, -1)


@endpoint("queues.move_task_backward")
async def move_task_backward(call: Call, data: Fields) -> Reply:
    """Towards the back."""
    return await _move(call, data, +1)


async def _move_to(call: Call, data: Fields, place: int) -> Reply:
    queue_id, task_id = data.ident("queue"), data.ident("task")

    def change(tx: Transaction) -> int:
        queues.require(tx, queue_id, call.company)
        return queues.move_to(tx, queue_id, task_id, place)

    return {"position": await call.write(change)}


@endpoint("queues.move_task_to_front")
async def move_task_to_front(call: Call, data: Fields) -> Reply:
    """First."""
    return await _move_to(call, data, 0)


@endpoint("queues.move_task_to_back")
async def move_task_to_back(call: Call, data: Fields) -> Reply:
    """Last."""
    return await _move_to(call, data, _THE_END)


_THE_END = 2**31
