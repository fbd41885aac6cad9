"""The endpoints that change the status of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import errors, states
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document
from ..store import queues, task_status, tasks
from ..store.database import Transaction
from ..store.task_status import Asked
from .bulk import each

Change = Callable[[Transaction, str], Document]


def asked(call: Call, data: Fields) -> Asked:
    """Who asks, and what they say."""
    return Asked(
        company=call.company,
        user=call.user,
        user_name=call.identity.user_name,
        force=data.flag("force", False),
        reason=data.text_or("status_reason", ""),
        message=data.text_or("status_message", ""),
    )


async def _one(call: Call, data: Fields, change: Change) -> Reply:
    task_id = data.ident("task")
    return await call.write(lambda tx: change(tx, task_id))


def _updated(fields: Document, **more: Any) -> Document:
    return {"updated": 1, "fields": fields, **more}


# --- running ---


@endpoint("tasks.started")
async def started(call: Call, data: Fields) -> Reply:
    """It runs. `claim` (ours): only if the pop with this claim is the last that was heard of it."""
    who, claim = asked(call, data), data.text_or_none("claim")
    return await _one(call, data, lambda tx, task: _updated(task_status.start(tx, task, who, claim=claim), started=1))


@endpoint("tasks.stopped")
async def stopped(call: Call, data: Fields) -> Reply:
    """It was ended on request."""
    who = asked(call, data)
    return await _one(call, data, lambda tx, task: _updated(task_status.end(tx, task, states.STOPPED, who)))


@endpoint("tasks.failed")
async def failed(call: Call, data: Fields) -> Reply:
    """It ended badly."""
    who = asked(call, data)
    return await _one(call, data, lambda tx, task: _updated(task_status.end(tx, task, states.FAILED, who)))


@endpoint("tasks.completed")
async def completed(call: Call, data: Fields) -> Reply:
    """It ended well; `publish` publishes it in the same transaction."""
    who, publishes = asked(call, data), data.flag("publish", False)

    def change(tx: Transaction, task: str) -> Document:
        fields = task_status.end(tx, task, states.COMPLETED, who)
        if not publishes:
            return _updated(fields, published=0)
        fields |= task_status.publish(tx, task, who, publish_model=True)
        return _updated(fields, published=1)

    return await _one(call, data, change)


@endpoint("tasks.close")
async def close(call: Call, data: Fields) -> Reply:
    """closed."""
    who = asked(call, data)
    return await _one(call, data, lambda tx, task: _updated(task_status.close(tx, task, who)))


def _stop(call: Call, data: Fields) -> Change:
    who, with_steps = asked(call, data), data.flag("include_pipeline_steps", False)

    def change(tx: Transaction, task: str) -> Document:
        fields = task_status.stop(tx, task, who)
        if with_steps:
            task_status.stop_children(tx, task, who)
        return _updated(fields)

    return change


@endpoint("tasks.stop")
async def stop(call: Call, data: Fields) -> Reply:
    """Ask it to stop."""
    return await _one(call, data, _stop(call, data))


@endpoint("tasks.stop_many")
async def stop_many(call: Call, data: Fields) -> Reply:
    """Ask several to stop."""
    return await each(call, data, _stop(call, data))


# --- queueing ---


def _enqueue(call: Call, data: Fields) -> Change:
    who, verify = asked(call, data), data.flag("verify_watched_queue", False)
    update = data.flag("update_execution_queue", True)
    queue, name = data.text_or_none("queue"), data.text_or_none("queue_name")
    if queue and name:
        raise errors.VALIDATION("only one of queue and queue_name may be given", field="queue_name")

    def change(tx: Transaction, task: str) -> Document:
        target = queue or _queue_for(tx, call, name)
        fields = task_status.enqueue(tx, task, target, who, update_execution_queue=update)
        reply = {"queued": 1, **_updated(fields)}
        return {**reply, "queue_watched": call.services.workers.listening_to(target)} if verify else reply

    return change


def _queue_for(tx: Transaction, call: Call, name: str | None) -> str:
    if not name:
        return str(queues.default(tx, call.company)["id"])
    found = queues.by_name(tx, name, call.company)
    return found or queues.create(tx, name, company=call.company, user=call.user)


@endpoint("tasks.enqueue")
async def enqueue(call: Call, data: Fields) -> Reply:
    """Put it at the end of a queue."""
    return await _one(call, data, _enqueue(call, data))


@endpoint("tasks.enqueue_many")
async def enqueue_many(call: Call, data: Fields) -> Reply:
    """Put several at the end of a queue."""
    return await each(call, data, _enqueue(call, data))


def _dequeue(call: Call, data: Fields) -> Change:
    who, from_all = asked(call, data), data.flag("remove_from_all_queues", False)
    new_status = data.text_or_none("new_status")
    if new_status is not None and new_status not in states.STATUSES:
        raise errors.VALIDATION("unknown status", field="new_status", value=new_status)

    def change(tx: Transaction, task: str) -> Document:
        fields = task_status.dequeue(tx, task, who, new_status=new_status, from_all=from_all)
        return {"dequeued": 1, "updated": 0} if fields is None else {"dequeued": 1, **_updated(fields)}

    return change


@endpoint("tasks.dequeue")
async def dequeue(call: Call, data: Fields) -> Reply:
    """Take it out of its queue. A task that does not exist leaves every queue, which is no error."""
    task_id, change = data.ident("task"), _dequeue(call, data)

    def tolerant(tx: Transaction) -> Document:
        if not tasks.existing(tx, [task_id], call.company):
            queues.remove(tx, task_id)
            return {"dequeued": 1, "updated": 0}
        return change(tx, task_id)

    return await call.write(tolerant)


@endpoint("tasks.dequeue_many")
async def dequeue_many(call: Call, data: Fields) -> Reply:
    """Take several out of their queues."""
    return await each(call, data, _dequeue(call, data))


# --- finishing ---


def _publish(call: Call, data: Fields) -> Change:
    who, with_model = asked(call, data), data.flag("publish_model", True)
    return lambda tx, task: _updated(task_status.publish(tx, task, who, publish_model=with_model))


@endpoint("tasks.publish")
async def publish(call: Call, data: Fields) -> Reply:
    """Make it read-only for good."""
    return await _one(call, data, _publish(call, data))


@endpoint("tasks.publish_many")
async def publish_many(call: Call, data: Fields) -> Reply:
    """Publish several."""
    return await each(call, data, _publish(call, data))


def _reset(call: Call, data: Fields) -> Change:
    who, clear_all = asked(call, data), data.flag("clear_all", False)
    delete_models, wants_urls = data.flag("delete_output_models", True), data.flag("return_file_urls", False)

    def change(tx: Transaction, task: str) -> Document:
        tasks.row(tx, task, call.company)
        urls = {"artifact_urls": tasks.files_of(tx, task), "event_urls": [], "model_urls": []} if wants_urls else None
        reply = {"updated": 1, **task_status.reset(tx, task, who, clear_all=clear_all, delete_models=delete_models)}
        return reply if urls is None else {**reply, "urls": urls}

    return change


@endpoint("tasks.reset")
async def reset(call: Call, data: Fields) -> Reply:
    """A draft again, without results."""
    return await _one(call, data, _reset(call, data))


@endpoint("tasks.reset_many")
async def reset_many(call: Call, data: Fields) -> Reply:
    """Reset several."""
    return await each(call, data, _reset(call, data))


@endpoint("tasks.archive")
async def archive(call: Call, data: Fields) -> Reply:
    """Out of sight; takes a list of ids, and is one call for all of them."""
    who, ids = asked(call, data), data.strings("tasks") or data.idents("ids")

    def change(tx: Transaction) -> int:
        return len([task_status.archive(tx, task, who) for task in ids])

    return {"archived": await call.write(change)}


@endpoint("tasks.archive_many")
async def archive_many(call: Call, data: Fields) -> Reply:
    """Out of sight, each on its own."""
    who = asked(call, data)
    return await each(call, data, lambda tx, task: _updated(task_status.archive(tx, task, who), archived=True))


@endpoint("tasks.unarchive_many")
async def unarchive_many(call: Call, data: Fields) -> Reply:
    """In sight again."""
    who = asked(call, data)
    return await each(call, data, lambda tx, task: _updated(task_status.unarchive(tx, task, who), unarchived=True))
