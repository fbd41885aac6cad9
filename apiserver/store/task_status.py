"""Status changes of tasks, each in one transaction with everything that must agree with it: queue entry, lease,
times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .. import clock, errors, states
from ..announcements import StatusChanged
from ..identity import SYSTEM_USER
from ..query import Document
from . import popping, projects, queues, tasks
from .database import Row, Session, Transaction
from .schema import lease, model, queue_entry, task

#: A task is taken to be run by a live worker while its last sign of life is younger than this.
ALIVE_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks for a change, and what they say about it. Absent texts are written as empty."""

    company: str
    user: str
    user_name: str = ""
    force: bool = False
    reason: str = ""
    message: str = ""


def change(tx: Transaction, found: Row, status: str, asked: Asked, **more: Any) -> Document:
    """Write a status that was allowed; 400/121 when somebody else was faster. Returns the fields written."""
    values: dict[str, Any] = {
        "status": status,
        "status_reason": asked.reason,
        "status_message": asked.message,
        "status_changed": tx.now,
        "last_update": tx.now,
        "last_change": tx.now,
        "last_changed_by": asked.user,
        **more,
    }
    same = sa.and_(task.c.id == found["id"], task.c.status == found["status"])
    if tx.execute(sa.update(task).where(same).values(values)).rowcount != 1:
        raise errors.TASK_STATUS_CHANGED(id=found["id"], current_status=found["status"], new_status=status)
    queues.end_lease(tx, found["id"])
    projects.touch(tx, found["project"])
    tx.announce(StatusChanged(found["id"]))
    return _shown(values)


def _shown(values: Mapping[str, Any]) -> Document:
    shown = {name: value for name, value in values.items() if value is not None}
    if "execution_queue" in shown:
        shown["execution.queue"] = shown.pop("execution_queue")
    return shown


def _allowed(tx: Session, task_id: str, status: str, asked: Asked) -> Row:
    found = tasks.row(tx, task_id, asked.company)
    states.require_change(found["status"], status, force=asked.force)
    return found


# --- running ---


def start(tx: Transaction, task_id: str, asked: Asked, *, claim: str | None = None) -> Document:
    """in_progress. The entry that may still wait in a queue goes in the same transaction.

    With the claim of a pop, what was said of the task since then (an abort, a reset, another pop) is not overruled.
    """
    found = _allowed(tx, task_id, states.IN_PROGRESS, asked)
    if claim is not None and (found["status"] != states.QUEUED or popping.is_of_another(tx, task_id, claim)):
        raise errors.INVALID_TASK_STATUS("The claim has ended", current_status=found["status"], claim=claim)
    queues.remove(tx, task_id)
    if found["status"] == states.IN_PROGRESS and found["started"]:
        return change(tx, found, states.IN_PROGRESS, asked)
    fresh = {"started": tx.now, "completed": None, "active_duration": None}
    return change(tx, found, states.IN_PROGRESS, asked, **fresh)


def end(tx: Transaction, task_id: str, status: str, asked: Asked) -> Document:
    """stopped, failed or completed, by whoever ran it.

    A stop leaves the queue entry alone: it may come late, from a process that stopped itself and enqueued the task
    again; the pop then makes it queued.
    """
    found = _allowed(tx, task_id, status, asked)
    if status != states.STOPPED:
        queues.remove(tx, task_id)
    return change(tx, found, status, asked, completed=tx.now, **_final_duration(tx, found))


def _final_duration(tx: Session, found: Row) -> dict[str, int]:
    duration = tasks.active_duration(tx, found)
    return {} if duration is None else {"active_duration": duration}


def close(tx: Transaction, task_id: str, asked: Asked) -> Document:
    """closed."""
    return change(tx, _allowed(tx, task_id, states.CLOSED, asked), states.CLOSED, asked)


def stop(tx: Transaction, task_id: str, asked: Asked) -> Document:
    """Ask a task to stop: at once when nothing runs it, else by the message "stopping" that its agent looks for."""
    found = tasks.row(tx, task_id, asked.company)
    if found["status"] == states.IN_PROGRESS and _runs_on_a_worker(tx, found):
        return change(tx, found, states.IN_PROGRESS, _saying(asked, "stopping"))
    states.require_change(found["status"], states.STOPPED, force=asked.force)
    queues.remove(tx, task_id)
    return change(tx, found, states.STOPPED, _saying(asked, f"Stopped by {asked.user_name or asked.user}"))


def _saying(asked: Asked, message: str) -> Asked:
    return Asked(company=asked.company, user=asked.user, force=asked.force, reason=asked.reason, message=message)


def _runs_on_a_worker(tx: Session, found: Row) -> bool:
    if "development" in found["system_tags"] or not found["last_worker"]:
        return False
    return tx.moment - clock.seconds(found["last_update"]) < ALIVE_SECONDS


# --- queueing ---


def enqueue(
    tx: Transaction, task_id: str, queue_id: str, asked: Asked, *, update_execution_queue: bool = True
) -> Document:
    """queued, with an entry at the end of this queue and in no other."""
    found = _allowed(tx, task_id, states.QUEUED, asked)
    if not update_execution_queue and not found["execution_queue"]:
        raise errors.VALIDATION("task has no execution queue to keep", field="update_execution_queue")
    queues.require(tx, queue_id, asked.company)
    queues.append(tx, queue_id, task_id)
    is_back = found["status"] in {states.QUEUED, states.IN_PROGRESS}  # given back: it was before what it was then
    before = found["enqueue_status"] if is_back else found["status"]
    return change(
        tx,
        found,
        states.QUEUED,
        asked,
        enqueue_status=before or states.CREATED,
        system_tags=[tag for tag in found["system_tags"] if tag != "development"],
        execution_queue=queue_id if update_execution_queue else found["execution_queue"],
    )


def dequeue(
    tx: Transaction, task_id: str, asked: Asked, *, new_status: str | None = None, from_all: bool = False
) -> Document | None:
    """Back to where it was before it was queued (or to a given status); None when it was neither queued nor running.

    A running task is only taken back by its agent, which names the new status, or by force: otherwise the one who looks
    at the list would turn a running task into a draft.
    """
    found = tasks.row(tx, task_id, asked.company)
    queues.remove(tx, task_id, None if from_all or not found["execution_queue"] else found["execution_queue"])
    if found["status"] not in {states.QUEUED, states.IN_PROGRESS}:
        return None
    if found["status"] == states.IN_PROGRESS and new_status is None and not asked.force:
        raise errors.INVALID_TASK_STATUS("task is running", current_status=found["status"], task=task_id)
    return change(tx, found, new_status or found["enqueue_status"] or states.CREATED, asked, enqueue_status=None)


def send_back(tx: Transaction, task_id: str, asked: Asked) -> None:
    """A queue went away under a queued task."""
    found = tasks.row(tx, task_id, asked.company)
    if found["status"] == states.QUEUED:
        change(tx, found, found["enqueue_status"] or states.CREATED, asked, enqueue_status=None)


# --- finishing ---


def publish(tx: Transaction, task_id: str, asked: Asked, *, publish_model: bool) -> Document:
    """published, for good; its last output model with it. By force even from a queue, which it then leaves."""
    found = tasks.row(tx, task_id, asked.company)
    if found["status"] not in states.PUBLISHABLE and not asked.force:
        raise errors.INVALID_TASK_STATUS(
            "Invalid status change", current_status=found["status"], new_status=states.PUBLISHED
        )
    outputs = found["models"].get("output") or []
    if publish_model and outputs:
        tx.execute(sa.update(model).where(model.c.id == outputs[-1]["model"]).values(ready=True, last_update=tx.now))
    queues.remove(tx, task_id)
    return change(tx, found, states.PUBLISHED, asked, published=tx.now)


def reset(tx: Transaction, task_id: str, asked: Asked, *, clear_all: bool, delete_models: bool) -> Document:
    """A draft again, without anything its runs left. Returns the fields of the reply."""
    found = tasks.row(tx, task_id, asked.company)
    if found["status"] in states.LOCKED and not asked.force:
        raise errors.INVALID_TASK_STATUS("task is published", current_status=found["status"])
    dequeued = queues.remove(tx, task_id)
    deleted = tasks.forget_results(tx, found, clear_all=clear_all, delete_models=delete_models)
    saying = Asked(company=asked.company, user=asked.user, reason="reset", message="reset")
    fields = change(tx, found, states.CREATED, saying)
    return {"fields": fields, "dequeued": {"removed": int(dequeued)}, "deleted_models": len(deleted)}


def archive(tx: Transaction, task_id: str, asked: Asked) -> Document:
    """Out of sight: dequeued, stopped if it ran, tagged."""
    found = tasks.row(tx, task_id, asked.company)
    tags = sorted({*found["system_tags"], "archived"})
    queues.remove(tx, task_id)
    if found["status"] == states.QUEUED:
        return change(
            tx, found, found["enqueue_status"] or states.CREATED, asked, system_tags=tags, enqueue_status=None
        )
    if found["status"] == states.IN_PROGRESS:
        return change(tx, found, states.STOPPED, asked, system_tags=tags)
    return change(tx, found, found["status"], _keeping(found, asked), system_tags=tags)


def unarchive(tx: Transaction, task_id: str, asked: Asked) -> Document:
    """In sight again."""
    found = tasks.row(tx, task_id, asked.company)
    tags = [tag for tag in found["system_tags"] if tag != "archived"]
    return change(tx, found, found["status"], _keeping(found, asked), system_tags=tags)


def _keeping(found: Row, asked: Asked) -> Asked:
    return Asked(
        company=asked.company,
        user=asked.user,
        reason=asked.reason or found["status_reason"],
        message=asked.message or found["status_message"],
    )


# --- repairs ---


def reconcile(tx: Transaction, older_than: float) -> int:
    """Make queue entries and statuses agree again; returns how many tasks were repaired.

    queued, but in no queue and leased to nobody for a while → back into its queue, or a draft when that is gone
    in a queue, but not queued                               → out of the queue
    """
    lost = _queued_in_no_queue(tx, older_than)
    for found in lost:
        try:
            queues.require(tx, found["execution_queue"] or "", found["company"])
            queues.append(tx, found["execution_queue"], found["id"])
        except errors.ApiError:
            send_back(tx, found["id"], _repair(found, "queue is gone"))
    stray = _in_a_queue_but_not_queued(tx, older_than)
    for task_id in stray:
        queues.remove(tx, task_id)
    return len(lost) + len(stray)


def needs_reconciling(tx: Session, older_than: float) -> bool:
    """Whether `reconcile` would do anything; asked on a reading connection."""
    return bool(_queued_in_no_queue(tx, older_than) or _in_a_queue_but_not_queued(tx, older_than))


def _queued_in_no_queue(tx: Session, older_than: float) -> list[Row]:
    statement = (
        sa.select(task.c.id, task.c.company, task.c.execution_queue)
        .where(task.c.status == states.QUEUED, task.c.status_changed < clock.timestamp(tx.moment - older_than))
        .where(~sa.exists().where(queue_entry.c.task == task.c.id))
        .where(~sa.exists().where(lease.c.task == task.c.id))
    )
    return list(tx.all(statement))


def _in_a_queue_but_not_queued(tx: Session, older_than: float) -> list[str]:
    """A stopped task stays: it was stopped late, after it was enqueued again, and its pop makes it queued."""
    kept = (states.QUEUED, states.STOPPED)
    statement = (
        sa.select(queue_entry.c.task)
        .outerjoin(task, task.c.id == queue_entry.c.task)
        .where(queue_entry.c.added < clock.timestamp(tx.moment - older_than))
        .where(sa.or_(task.c.id.is_(None), task.c.status.not_in(kept)))
    )
    return list(tx.execute(statement).scalars())


def _repair(found: Row, reason: str) -> Asked:
    return Asked(company=found["company"], user=SYSTEM_USER, force=True, reason=reason)


def silent(tx: Session, longer_than: float) -> list[str]:
    """Running tasks of which nothing was heard for so long."""
    quiet = task.c.last_update < clock.timestamp(tx.moment - longer_than)
    return list(tx.execute(sa.select(task.c.id).where(task.c.status == states.IN_PROGRESS, quiet)).scalars())


def stop_silent(tx: Transaction, longer_than: float) -> list[str]:
    """Stop those; returns their ids."""
    stopped = silent(tx, longer_than)
    for task_id in stopped:
        found = tx.one(sa.select(task).where(task.c.id == task_id))
        if found is not None:
            text = "Forced stop (non-responsive)"
            asked = Asked(company=found["company"], user=SYSTEM_USER, force=True, reason=text, message=text)
            change(tx, found, states.STOPPED, asked, completed=tx.now)
    return stopped


def stop_children(tx: Transaction, task_id: str, asked: Asked) -> None:
    """Stop the steps of a pipeline with it."""
    active = sa.and_(task.c.parent == task_id, task.c.status.in_((states.QUEUED, states.IN_PROGRESS)))
    for child in tx.execute(sa.select(task.c.id).where(active)).scalars().all():
        stop(tx, child, asked)
