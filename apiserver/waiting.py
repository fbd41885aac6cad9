"""Those who wait: for a task in a queue, for what steers a worker, and for a task's status to change.

A waiter is a parked coroutine. It takes its seat *before* it looks at the database, so that what is committed in
between wakes it; one new entry wakes exactly one seat, the longest waiting. A seat that leaves without having used its
wake-up (the client went away, or found something better) hands it on, so that no entry is overlooked. A change of what
a seat watches (a queue's tags, a worker's properties) stirs every seat that watches it: there is enough for all.

Reservations keep a peeked entry for the one who saw it, in memory, for a few seconds: long enough to write a claim to
disk and to pop it by name. They are a courtesy, not a lock; the pop decides.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .announcements import EntryGone, PropertiesChanged, QueueChanged, QueueGrew, StatusChanged


class Found(Protocol):
    """What a look into the queues may find."""

    @property
    def queue(self) -> str:
        """The queue it was found in."""


F = TypeVar("F", bound=Found)
Gone = Callable[[], "asyncio.Future[None]"]

#: What a seat may watch: the announcement that tells of a change to it.
Subject = QueueChanged | PropertiesChanged


class Seat:
    """One waiter for a task in any of several queues, and for changes of what it watches."""

    __slots__ = ("_wake", "owed", "queues", "stirred", "watched")

    def __init__(self, queues: tuple[str, ...], watched: tuple[Subject, ...]) -> None:
        self.queues = queues
        self.watched = watched
        self.owed: set[str] = set()  # queues we were woken for and have not looked into since
        self.stirred = False  # whether something watched has changed since our last look
        self._wake: asyncio.Future[None] | None = None

    def wake(self, queue: str) -> None:
        """There is something in this queue."""
        self.owed.add(queue)
        self._rouse()

    def stir(self) -> None:
        """Something watched has changed."""
        self.stirred = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def sleep(self, until: float, gone: Gone) -> bool:
        """Park until woken; False when the time is over or the client went away."""
        if self.owed or self.stirred:
            return True
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        leaving = gone()
        await asyncio.wait((self._wake, leaving), timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        return (bool(self.owed) or self.stirred) and not leaving.done()


@dataclass(frozen=True, slots=True)
class Reservation:
    """An entry that somebody was shown."""

    task: str
    queue: str
    holder: str
    lapse: asyncio.TimerHandle


class WaitingRoom:
    """All seats, reservations and status watchers of the server; lives on the event loop."""

    def __init__(self, *, reservation_seconds: float) -> None:
        self._reservation_seconds = reservation_seconds
        self._seats: defaultdict[str, dict[Seat, None]] = defaultdict(dict)  # ordered: the longest waiting first
        self._reservations: dict[str, Reservation] = {}
        self._watching: defaultdict[Subject, set[Seat]] = defaultdict(set)
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False
        self.parked = 0  # how many calls wait for a task at this moment

    def notice(self, event: object) -> None:
        """A change was committed."""
        match event:
            case QueueGrew(queue=queue):
                self._wake_one(queue)
            case QueueChanged() | PropertiesChanged():
                for seat in self._watching.get(event, ()):
                    seat.stir()
            case EntryGone(task=task):
                self._drop_reservation(task)
            case StatusChanged(task=task):
                for watcher in self._watchers.get(task, ()):
                    watcher.set()

    def close(self) -> None:
        """Send everybody home: the server is stopping."""
        self._closed = True
        for seats in [*self._seats.values(), *self._watching.values()]:
            for seat in seats:
                seat.stir()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    # --- for a task in a queue

    async def first(
        self,
        queues: Iterable[str],
        seconds: float,
        look: Callable[[], Awaitable[F | None]],
        gone: Gone,
        *,
        watched: Iterable[Subject] = (),
    ) -> F | None:
        """What `look` finds, looked again whenever one of the queues grew or something watched has changed.

        None after `seconds` or without a client. What is found in none of the queues uses up no wake-up.
        """
        until = asyncio.get_running_loop().time() + seconds
        with self._seated(Seat(tuple(queues), tuple(watched))) as seat:
            while True:
                found = await self._looked(seat, look)
                if found is not None:
                    return found
                if self._closed or not await self._park(seat, until, gone) or self._closed:
                    return None

    async def _looked(self, seat: Seat, look: Callable[[], Awaitable[F | None]]) -> F | None:
        """Look once. Wake-ups that did not lead to what was found stay owed, and go to others when the seat leaves."""
        seen, seat.owed, seat.stirred = seat.owed, set(), False
        try:
            found = await look()
        except BaseException:
            seat.owed |= seen
            raise
        if found is not None:
            seat.owed |= seen - {found.queue}
        return found

    async def _park(self, seat: Seat, until: float, gone: Gone) -> bool:
        self.parked += 1
        try:
            return await seat.sleep(until, gone)
        finally:
            self.parked -= 1

    @contextmanager
    def _seated(self, seat: Seat) -> Iterator[Seat]:
        for queue in seat.queues:
            self._seats[queue][seat] = None
        for subject in seat.watched:
            self._watching[subject].add(seat)
        try:
            yield seat
        finally:
            self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        for queue in seat.queues:
            self._seats[queue].pop(seat, None)
            if not self._seats[queue]:
                del self._seats[queue]
        for subject in seat.watched:
            self._watching[subject].discard(seat)
            if not self._watching[subject]:
                del self._watching[subject]
        for queue in seat.owed:
            self._wake_one(queue)

    def _wake_one(self, queue: str) -> None:
        for seat in self._seats.get(queue, ()):
            if not seat.owed:
                seat.wake(queue)
                return

    # --- reservations

    def reserved_for_others(self, holder: str) -> frozenset[str]:
        """Tasks that this holder should not be shown."""
        return frozenset(task for task, kept in self._reservations.items() if kept.holder != holder)

    def reserve(self, task: str, queue: str, holder: str) -> bool:
        """Keep an entry for a holder; False when another has it."""
        kept = self._reservations.get(task)
        if kept is not None and kept.holder != holder:
            return False
        self._drop_reservation(task)
        lapse = asyncio.get_running_loop().call_later(self._reservation_seconds, self.release, task, holder)
        self._reservations[task] = Reservation(task, queue, holder, lapse)
        return True

    def release(self, task: str, holder: str) -> None:
        """The holder did not use it: show the entry to the next one."""
        kept = self._reservations.get(task)
        if kept is not None and kept.holder == holder:
            self._drop_reservation(task)
            self._wake_one(kept.queue)

    def _drop_reservation(self, task: str) -> None:
        kept = self._reservations.pop(task, None)
        if kept is not None:
            kept.lapse.cancel()

    # --- for a task's status

    @contextmanager
    def watching(self, tasks: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of these tasks changes."""
        watcher = asyncio.Event()
        tasks = tuple(tasks)
        for task in tasks:
            self._watchers[task].add(watcher)
        try:
            yield watcher
        finally:
            for task in tasks:
                self._watchers[task].discard(watcher)
                if not self._watchers[task]:
                    del self._watchers[task]

    async def changed(self, watcher: asyncio.Event, until: float, gone: Gone) -> bool:
        """Wait for a watcher; False when the time is over, the client went away or the server is stopping."""
        if self._closed:
            return False
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Any] = loop.create_task(watcher.wait())
        leaving: asyncio.Future[Any] = gone()
        try:
            await asyncio.wait((waiter, leaving), timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        woken = watcher.is_set()
        watcher.clear()
        return woken and not leaving.done() and not self._closed
