"""What steers a worker from outside: the tags of its queues, whether they are still there, and its runtime properties.

A worker that waits for a task is told of all of it in one reply, with a mark. The mark is a digest of everything but
the passing of time, so "has anything changed?" is one comparison, and the server keeps nothing about who knows what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..query import Document
from . import queues, workers
from .database import Session
from .schema import to_json
from .workers import Property


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Whose steering somebody wants to be told of, and the mark of what they know."""

    worker: str
    queues: tuple[str, ...]
    known: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """The queues as asked for, and the properties that were in force when it was read."""

    queues: tuple[Document, ...]
    properties: tuple[Property, ...]

    def in_force(self, moment: float) -> list[Property]:
        """The properties whose time is not over by now; a held call may be answered long after its last look."""
        return [known for known in self.properties if known.is_in_force(moment)]

    def mark(self, moment: float) -> str:
        """The same for the same steering, whatever seconds are left of a property."""
        properties = [(known.key, known.value, known.expires_at) for known in self.in_force(moment)]
        return hashlib.blake2b(to_json([self.queues, properties]).encode(), digest_size=12).hexdigest()

    def on_the_wire(self, moment: float) -> Document:
        """As replies show it."""
        return {
            "mark": self.mark(moment),
            "queues": list(self.queues),
            "properties": [known.on_the_wire(moment) for known in self.in_force(moment)],
        }


def read(tx: Session, watch: Watch, described: Mapping[str, Document], company: str) -> Steering:
    """What steers this worker; `described` knows its queues, and one that it does not know is gone."""
    return Steering(
        queues=tuple(described.get(queue_id) or queues.gone(queue_id) for queue_id in watch.queues),
        properties=tuple(workers.properties(tx, company, watch.worker)),
    )
