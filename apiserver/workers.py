"""The workers that were heard of lately.

An entry lives for its time-out after the last report and then vanishes. Reports come every few seconds from every
agent, so the entries are kept in memory and written behind, together; registrations and properties are written at once.
A worker is known by its id alone: two agents that use the same one are shown as one, marked `duplicate-id`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import clock
from .identity import COMPANY_NAME
from .query import Document, list_filter
from .store import workers as store
from .store.database import Database

DUPLICATE_ID = "duplicate-id"
DUPLICATE_WINDOW_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Worker:
    """One entry; times are seconds since the epoch."""

    id: str
    company: str
    user: str
    user_name: str = ""
    ip: str = ""
    queues: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    system_tags: list[str] = field(default_factory=list)
    timeout: int = 600
    registered: float = 0.0
    last_activity: float = 0.0
    last_report: float | None = None
    task: str | None = None
    task_name: str = ""
    project: str | None = None
    queue: str | None = None
    machine_stats: Document = field(default_factory=dict)
    heard_from: dict[str, float] = field(default_factory=dict)  # ip → when

    @property
    def expires(self) -> float:
        """When it vanishes unless it is heard of again."""
        return self.last_activity + self.timeout

    @property
    def is_duplicate(self) -> bool:
        """Whether two addresses used this id at the same time."""
        recent = [when for when in self.heard_from.values() if self.last_activity - when < DUPLICATE_WINDOW_SECONDS]
        return len(recent) > 1

    def heard(self, ip: str, now: float) -> None:
        """A sign of life."""
        self.ip, self.last_activity = ip, now
        self.heard_from = {
            known: when for known, when in self.heard_from.items() if now - when < DUPLICATE_WINDOW_SECONDS
        }
        self.heard_from[ip] = now

    def on_the_wire(self) -> Document:
        """The entry itself; names of tasks and queues are joined by whoever shows it."""
        marks = [DUPLICATE_ID] if self.is_duplicate else []
        shown: Document = {
            "id": self.id,
            "key": f"worker_{self.company}_{self.id}",
            "user": {"id": self.user, "name": self.user_name},
            "company": {"id": self.company, "name": COMPANY_NAME},
            "ip": self.ip,
            "register_time": clock.timestamp(self.registered),
            "register_timeout": self.timeout,
            "last_activity_time": clock.timestamp(self.last_activity),
            "tags": sorted(self.tags),
            "system_tags": sorted({*self.system_tags, *marks}),
        }
        if self.last_report is not None:
            shown["last_report_time"] = clock.timestamp(self.last_report)
        return shown


class Workers:
    """All entries; on the event loop."""

    def __init__(self, db: Database, *, now: clock.Clock = clock.system_clock) -> None:
        self._db = db
        self._now = now
        self._entries: dict[tuple[str, str], Worker] = {}
        self._unsaved: set[tuple[str, str]] = set()

    async def open(self) -> None:
        """Remember the workers of before the restart."""
        for company, worker_id, entry in await self._db.read(store.load):
            self._entries[company, worker_id] = Worker(**entry)

    async def register(self, worker: Worker) -> None:
        """A new entry in place of an older one of this id."""
        known = self._entries.get((worker.company, worker.id))
        worker.heard_from = dict(known.heard_from) if known else {}
        worker.registered = self._now()
        worker.heard(worker.ip, worker.registered)
        self._entries[worker.company, worker.id] = worker
        self._unsaved.add((worker.company, worker.id))
        await self.flush()

    async def unregister(self, company: str, worker_id: str) -> None:
        """Forget it; twice is no error."""
        if self._entries.pop((company, worker_id), None) is not None:
            await self._db.write(lambda tx: store.delete(tx, company, [worker_id]))
        self._unsaved.discard((company, worker_id))

    def reported(self, company: str, worker_id: str, *, user: str, user_name: str, ip: str) -> Worker:
        """The entry of a worker that is reporting, made when it is not known."""
        now = self._now()
        entry = self._entries.get((company, worker_id))
        if entry is None or entry.expires <= now:
            entry = Worker(id=worker_id, company=company, user=user, user_name=user_name, registered=now)
            self._entries[company, worker_id] = entry
        entry.heard(ip, now)
        entry.last_report = now
        self._unsaved.add((company, worker_id))
        return entry

    def alive(self) -> list[Worker]:
        """Everybody who has not vanished."""
        now = self._now()
        return [entry for entry in self._entries.values() if entry.expires > now]

    def select(
        self,
        company: str,
        *,
        last_seen: float,
        pattern: str = "",
        tags: Sequence[str] = (),
        system_tags: Sequence[str] = (),
    ) -> list[Worker]:
        """Those heard of lately (0: all), by glob on the id and by tags."""
        now = self._now()
        wanted, system = list_filter("tags", list(tags)), list_filter("system_tags", list(system_tags))
        return [
            entry
            for entry in self.alive()
            if entry.company == company
            and (not last_seen or now - entry.last_activity <= last_seen)
            and (not pattern or fnmatch.fnmatchcase(entry.id, pattern))
            and (wanted is None or wanted.matches(list(entry.tags)))
            and (system is None or system.matches(list(entry.system_tags)))
        ]

    def listening_to(self, queue: str) -> bool:
        """Whether any live worker takes tasks from this queue."""
        return any(queue in entry.queues for entry in self.alive())

    def briefly(self, queue: str) -> list[Document]:
        """The workers of a queue, for the list of queues."""
        return [_brief(entry) for entry in self.alive() if queue in entry.queues]

    async def flush(self) -> None:
        """Write what was reported since the last time, and forget who vanished."""
        now = self._now()
        gone = [key for key, entry in self._entries.items() if entry.expires <= now]
        for key in gone:
            del self._entries[key]
        unsaved, self._unsaved = self._unsaved, set()
        rows = [_row(self._entries[key]) for key in unsaved if key in self._entries]
        if rows or gone:
            await self._db.write(lambda tx: store.save(tx, rows, gone))


def _brief(entry: Worker) -> Document:
    brief: Document = {"name": entry.id, "ip": entry.ip, "key": f"worker_{entry.company}_{entry.id}"}
    if entry.task:
        brief["task"] = {"id": entry.task, "name": entry.task_name}
    return brief


def _row(entry: Worker) -> Mapping[str, Any]:
    stored = {name: getattr(entry, name) for name in Worker.__slots__}
    return {"company": entry.company, "id": entry.id, "entry": stored, "expires_at": entry.expires}


def queue_ids(entries: Iterable[Worker]) -> list[str]:
    """The queues that these workers listen to or took their task from."""
    ids = dict.fromkeys(queue for entry in entries for queue in entry.queues)
    return list(ids | dict.fromkeys(entry.queue for entry in entries if entry.queue))
