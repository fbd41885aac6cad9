"""Task states as the server knows them, and the named sets of them that decisions are made on."""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """The value of `task.status` on the wire."""

    CREATED = "created"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"
    CLOSED = "closed"
    PUBLISHING = "publishing"
    PUBLISHED = "published"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> TaskStatus:
        return cls.UNKNOWN


class RunPhase(StrEnum):
    """Where a run on this host stands; the value of `phase` in `claim.json`, in order of time."""

    CLAIMING = "claiming"  # the claim is written, the pop may or may not have happened
    CLAIMED = "claimed"  # the server gave us the task
    STARTED = "started"  # the server was told that it runs; an executor exists or is about to
    EXITED = "exited"  # outcome.json exists, or the executor is known to be gone
    REPORTED = "reported"  # console and final status are on the server; the run may be removed
