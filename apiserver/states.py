"""The states of a task and the changes between them.

    created ──→ queued ──→ in_progress ──→ completed ──→ published
       ↑           │            ├──→ failed ────────────────↑
       │           └──→ stopped ←┘      ...and back to created by a reset, from everything but published

There is no state "stopping": a running task that shall stop is `in_progress` with the message "stopping", and stays so
until its agent has stopped it.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import errors

CREATED = "created"
QUEUED = "queued"
IN_PROGRESS = "in_progress"
STOPPED = "stopped"
FAILED = "failed"
COMPLETED = "completed"
CLOSED = "closed"
PUBLISHING = "publishing"
PUBLISHED = "published"
UNKNOWN = "unknown"

STATUSES = frozenset({CREATED, QUEUED, IN_PROGRESS, STOPPED, FAILED, COMPLETED, CLOSED, PUBLISHING, PUBLISHED, UNKNOWN})

#: From a status to those it may change to; staying is always allowed and refreshes reason and message.
CHANGES: Mapping[str, frozenset[str]] = {
    CREATED: frozenset({QUEUED, IN_PROGRESS}),
    QUEUED: frozenset({CREATED, IN_PROGRESS, STOPPED}),
    IN_PROGRESS: frozenset({CREATED, STOPPED, FAILED, COMPLETED}),
    STOPPED: frozenset({CREATED, QUEUED, IN_PROGRESS, FAILED, COMPLETED, CLOSED, PUBLISHING, PUBLISHED}),
    CLOSED: frozenset({CREATED, STOPPED, FAILED, PUBLISHING, PUBLISHED}),
    FAILED: frozenset({CREATED, QUEUED, STOPPED, PUBLISHED}),
    COMPLETED: frozenset({CREATED, IN_PROGRESS, PUBLISHED}),
    PUBLISHING: frozenset({PUBLISHED}),
    PUBLISHED: frozenset(),
    UNKNOWN: frozenset(),
}

#: May be published without force.
PUBLISHABLE = frozenset({STOPPED, CLOSED, FAILED, COMPLETED})

#: Never takes events or edits again.
LOCKED = frozenset({PUBLISHING, PUBLISHED})


def may_change(current: str, new: str) -> bool:
    """Whether the table allows it; force skips the table."""
    return current == new or new in CHANGES.get(current, frozenset())


def require_change(current: str, new: str, *, force: bool) -> None:
    """Refuse with 400/110 what the table does not allow."""
    if not force and not may_change(current, new):
        raise errors.INVALID_TASK_STATUS("Invalid status change", current_status=current, new_status=new)
