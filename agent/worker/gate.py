"""May the worker take a task from a queue now?

    queue tag force_workers:off   no           the strongest word, on one queue
    queue tag force_workers:on    yes
    runtime property force=off    no           on the whole worker, often with an expiry
    runtime property force=on     yes
    working hours                 open or not  command line, else file
    none of these                 yes

The words are ClearML's. They come with the reply to the question for the next task where the server can tell, and
are asked for elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.api.queues import Queue, Steering
from agent.api.workers import FORCE, MAX_INSTANCES, Property
from agent.wire import whole
from agent.worker.standing import Stand, Standing

if TYPE_CHECKING:
    from agent.schedule import Schedule

log = logging.getLogger(__name__)

TAG_OFF = "force_workers:off"
TAG_ON = "force_workers:on"


class Word(StrEnum):
    """Who has decided about a queue."""

    QUEUE_OFF = "queue_off"
    QUEUE_ON = "queue_on"
    FORCED_OFF = "forced_off"
    FORCED_ON = "forced_on"
    OPEN = "open"
    CLOSED = "closed"

    @property
    def opens(self) -> bool:
        return self in (Word.QUEUE_ON, Word.FORCED_ON, Word.OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Force:
    """The runtime property `force`: "on", "off" or empty, and when it expires (epoch seconds, None: never)."""

    word: str = ""
    until: float | None = None

    def at(self, now: float) -> str:
        return "" if self.until is not None and now >= self.until else self.word


class Gate:
    """What was said about this worker and its queues, together with its hours. `clock` tells epoch seconds."""

    def __init__(self, schedule: Schedule | None, *, clock: Callable[[], float] = time.time) -> None:
        self._schedule = schedule
        self._clock = clock
        self._force = Force()
        self._odd_value = ""
        #: How many tasks may run at once, as the property `max_num_instances` says; None: it is not set.
        self.most_tasks: int | None = None

    def hear(self, steering: Steering) -> None:
        """Take in what the server has just told of the worker's properties."""
        self._force = self._force_in(steering.properties.get(FORCE))
        limit = steering.properties.get(MAX_INSTANCES)
        self.most_tasks = whole(limit.value) if limit else None

    def _force_in(self, said: Property | None) -> Force:
        word = said.value.strip().lower() if said else ""
        if said is None or word not in ("on", "off"):
            if word and word != self._odd_value:
                log.warning("the runtime property force is %r: only on and off mean something", said and said.value)
            self._odd_value = word
            return Force()
        return Force(word=word, until=None if said.seconds_left is None else self._clock() + said.seconds_left)

    def word_on(self, queue: Queue) -> Word:
        """Who decides about a queue at this moment, and how."""
        if TAG_OFF in queue.tags:
            return Word.QUEUE_OFF
        if TAG_ON in queue.tags:
            return Word.QUEUE_ON
        if force := self._force.at(self._clock()):
            return Word.FORCED_ON if force == "on" else Word.FORCED_OFF
        return Word.OPEN if self._is_open() else Word.CLOSED

    def seconds_to_change(self) -> float | None:
        """When a word may be another one though nobody has said anything: a boundary of the hours, an expiry."""
        now = self._clock()
        moments = [moment for moment in (self._next_boundary(), self._force.until) if moment is not None]
        coming = [moment - now for moment in moments if moment > now]
        return min(coming, default=None)

    def stand(self) -> Stand:
        """What to tell of it: the word on a queue without tags."""
        now = self._clock()
        if force := self._force.at(now):
            until = "" if self._force.until is None else self._local(self._force.until)
            return Stand(standing=Standing.FORCED_ON if force == "on" else Standing.FORCED_OFF, until=until)
        if self._is_open():
            return Stand()
        boundary = self._next_boundary()
        return Stand(standing=Standing.CLOSED, until="" if boundary is None else self._local(boundary))

    def _is_open(self) -> bool:
        return self._schedule is None or self._schedule.is_open(self._now_local())

    def _next_boundary(self) -> float | None:
        change = self._schedule.next_change(self._now_local()) if self._schedule else None
        return change.timestamp() if change else None

    def _now_local(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), self._schedule.zone if self._schedule else None)

    def _local(self, moment: float) -> str:
        zone = self._schedule.zone if self._schedule else None
        local = datetime.fromtimestamp(moment, zone)
        return (local if local.tzinfo else local.astimezone()).isoformat(timespec="minutes")
