"""Taking a task out of its queue, and what happens when nothing is heard of it afterwards.

Popping leaves a lease. Any sign of life of the task ends it (`queues.end_lease`); a lease that runs out puts the task
back to the front of its queue, because whoever popped it died before it could say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from .. import states
from ..announcements import StatusChanged
from . import queues
from .database import Session, Transaction
from .queues import Entry
from .schema import lease, queue, task


@dataclass(frozen=True, slots=True, kw_only=True)
class Popper:
    """Who pops, for the lease."""

    worker: str
    ip: str
    claim: str | None
    lease_seconds: float


def pop(tx: Transaction, queue_ids: Iterable[str], popper: Popper, *, named: str | None = None) -> Entry | None:
    """Take the first entry (or the named task, wherever it stands) and lease it to the popper.

    Entries of deleted tasks are dropped on the way. A task that was stopped after it was enqueued is queued again here:
    its stop came late, from the process that enqueued it.
    """
    for queue_id in queue_ids:
        while (entry := _next(tx, queue_id, named)) is not None:
            queues.take_out(tx, entry)
            status = tx.value(sa.select(task.c.status).where(task.c.id == entry.task))
            if status is None:
                continue
            if status == states.STOPPED:
                _requeue_stopped(tx, entry.task)
            _lease(tx, entry, popper)
            return entry
    return leased_before(tx, named, popper.claim)


def leased_before(tx: Session, task_id: str | None, claim: str | None) -> Entry | None:
    """The entry of a pop that is repeated because its reply was lost: same task, same claim, lease still alive."""
    if task_id is None or claim is None:
        return None
    row = tx.one(
        sa.select(lease).where(lease.c.task == task_id, lease.c.claim == claim, lease.c.expires_at > tx.moment)
    )
    return queues.entry_from(row) if row else None


def is_of_another(tx: Session, task_id: str, claim: str) -> bool:
    """Whether a task that was popped with this claim waits in a queue again, or was popped by somebody else since."""
    others = sa.select(lease.c.task).where(lease.c.task == task_id, lease.c.claim.is_distinct_from(claim))
    return queues.entry_row(tx, task_id, None) is not None or tx.one(others) is not None


def _next(tx: Session, queue_id: str, named: str | None) -> Entry | None:
    row = queues.entry_row(tx, named, queue_id) if named is not None else tx.one(queues.waiting_in(queue_id).limit(1))
    return queues.entry_from(row) if row else None


def _requeue_stopped(tx: Transaction, task_id: str) -> None:
    values = {"status": states.QUEUED, "status_changed": tx.now, "last_change": tx.now, "last_update": tx.now}
    tx.execute(sa.update(task).where(task.c.id == task_id).values(**values, status_reason="", status_message=""))
    tx.announce(StatusChanged(task_id))


def _lease(tx: Transaction, entry: Entry, popper: Popper) -> None:
    tx.execute(sa.delete(lease).where(lease.c.task == entry.task))
    tx.execute(
        sa.insert(lease).values(
            task=entry.task,
            queue=entry.queue,
            added=entry.added,
            worker=popper.worker[:255],
            ip=popper.ip,
            claim=popper.claim,
            popped_at=tx.moment,
            expires_at=tx.moment + popper.lease_seconds,
        )
    )


def expired_leases(tx: Session) -> bool:
    """Whether there is anything for `return_expired` to do."""
    return tx.value(sa.select(lease.c.task).where(lease.c.expires_at <= tx.moment).limit(1)) is not None


def return_expired(tx: Transaction) -> list[Entry]:
    """Put popped tasks of which nothing was heard back to the front of their queues."""
    expired = sa.select(lease).where(lease.c.expires_at <= tx.moment).order_by(lease.c.popped_at.desc())
    return [entry for entry in map(queues.entry_from, tx.all(expired)) if give_back(tx, entry)]


def give_back(tx: Transaction, entry: Entry) -> bool:
    """Undo a pop: to the front with its old time, if the task still is queued and its queue is there."""
    queues.end_lease(tx, entry.task)
    status = tx.value(sa.select(task.c.status).where(task.c.id == entry.task))
    there = tx.value(sa.select(queue.c.id).where(queue.c.id == entry.queue))
    if status != states.QUEUED or there is None or queues.entry_row(tx, entry.task, None) is not None:
        return False
    queues.push_front(tx, entry.queue, entry.task, added=entry.added)
    return True
