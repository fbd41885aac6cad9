"""What a committed change means to those who wait for it; `Transaction.announce` takes these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueGrew:
    """A task was added to a queue, or came back to it."""

    queue: str
    task: str


@dataclass(frozen=True, slots=True)
class EntryGone:
    """A task is no longer where it waited: popped, moved to another queue, dequeued or deleted."""

    task: str


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """A task has another status or status message, or is gone."""

    task: str


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """A queue has other tags or another name, or was deleted."""

    queue: str


@dataclass(frozen=True, slots=True)
class PropertiesChanged:
    """Runtime properties of a worker were set or deleted."""

    company: str
    worker: str
