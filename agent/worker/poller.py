"""Where the next task comes from: the queues that may be pulled from now, asked in order until one has a task for us.

On our own server one held request does it all: it returns when there is a task, when something is said about the worker
or its queues, or at the next boundary of the working hours. Other servers are polled for each of these.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path

from agent.api import queues
from agent.api.client import AsyncClient
from agent.api.queues import Queue, Steering, Waiting, Watch
from agent.errors import AgentError, UnknownQueue
from agent.runner.claim import Claimant, Claimed, claim_task, claim_unnamed, first_waiting
from agent.runner.rundir import Runs
from agent.worker.gate import Gate, Word
from agent.worker.listening import LOOK_FOR_LOST_SECONDS, Listening
from agent.worker.turn import Turn

log = logging.getLogger(__name__)

#: What the server is asked to hold a request for; an idle agent makes one request in this time.
HOLD_SECONDS = 25.0
#: A server that does not hold the request after all (it is stopping, say) is not asked more often than this.
SHORTEST_ROUND_SECONDS = 1.0
SHORTEST_INTERVAL_SECONDS = 0.1
#: A boundary of the working hours has certainly passed by then.
AFTER_BOUNDARY_SECONDS = 0.05
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

#: Whether a task of this queue could start now, as far as this host is concerned.
Offers = Callable[[Queue], bool]


class Poller:
    """Finds and claims the next task. `gate` and `listening` are kept up to date on the way; `heard` is called when
    something new was heard.
    """

    def __init__(
        self,
        api: AsyncClient,
        listening: Listening,
        gate: Gate,
        turn: Turn,
        runs: Runs,
        *,
        worker: str,
        polling_interval_seconds: float,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._listening = listening
        self._gate = gate
        self._turn = turn
        self._runs = runs
        self._worker = worker
        self._interval = max(polling_interval_seconds, SHORTEST_INTERVAL_SECONDS)
        self._heard = heard
        self._mark = ""
        self._asked_at = -float("inf")

    async def next_waiting(self, offers: Offers = lambda queue: True) -> Waiting | None:
        """One round: a task that waits for us, or None after having waited for one in vain. Takes nothing."""
        await self._listening.look_for_lost()
        features = self._listening.source.features
        if not (self._listening.source.holds_requests and features.watch):
            await self.keep_up()
        order = self._turn.order([queue.id for queue in self._listening.queues if self._may_pull(queue, offers)])
        if self._listening.source.holds_requests and (order or features.watch):
            return await self._held(order)
        waiting = await first_waiting(self._api, self._listening.source, order)
        if waiting is None:
            await asyncio.sleep(min(self._interval, self.seconds_to_boundary()))
        return waiting

    async def keep_up(self) -> None:
        """Ask what is said about worker and queues, unless that was done a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= self._interval / 2:
            self._hear(await self._listening.ask())
            self._asked_at = now

    def word_on(self, queue_id: str) -> Word:
        """Who decides about the queue with this id at this moment."""
        return self._gate.word_on(self._listening.queues[self._listening.place_of(queue_id)])

    async def claim(self, waiting: Waiting, claimant: Claimant) -> Claimed | None:
        """Take what was seen waiting; None if somebody else was faster."""
        source = self._listening.source
        claim = claim_task if source.can_pop_by_name else claim_unnamed
        claimed = await claim(self._api, source, self._runs, waiting, claimant=claimant)
        if claimed is not None:
            self._turn.gave(waiting.queue, source.ids)
        return claimed

    def _may_pull(self, queue: Queue, offers: Offers) -> bool:
        return not queue.is_gone and self._gate.word_on(queue).opens and offers(queue)

    async def _held(self, order: list[str]) -> Waiting | None:
        """Let the server hold the question, no longer than until the hours change."""
        loop = asyncio.get_running_loop()
        hold = LOOK_FOR_LOST_SECONDS if self._listening.misses_some else HOLD_SECONDS
        began, longest = loop.time(), min(hold, self.seconds_to_boundary())
        source = self._listening.source
        watch = Watch(worker=self._worker, queues=source.ids, known=self._mark) if source.features.watch else None
        waiting, steering = await self._api.send(queues.wait_for_next(order, hold_seconds=longest, watch=watch))
        if steering is not None and steering.mark != self._mark:
            self._mark = steering.mark
            self._hear(steering)
        elif waiting is None:
            await asyncio.sleep(max(0.0, began + min(SHORTEST_ROUND_SECONDS, longest) - loop.time()))
        return waiting

    def _hear(self, steering: Steering) -> None:
        self._gate.hear(steering)
        self._listening.hear(steering)
        self._heard()

    def seconds_to_boundary(self) -> float:
        """How long until the hours or an expiry change what may be pulled; infinite if they never do."""
        seconds = self._gate.seconds_to_change()
        return float("inf") if seconds is None else seconds + AFTER_BOUNDARY_SECONDS


class Outage:
    """Pauses between attempts while the server is away, and one line in the log per outage rather than one per
    attempt. `say` is told at each of them.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self._say = say
        self._pause = 0.0

    @property
    def is_on(self) -> bool:
        return self._pause > 0

    async def wait(self, error: AgentError | OSError) -> None:
        what = (
            "this host"
            if isinstance(error, OSError)
            else "a queue"
            if isinstance(error, UnknownQueue)
            else "the server"
        )
        if not self._pause:
            log.warning("waiting for %s: %s", what, error, extra={"action": "outage"})
        self._say(f"waiting for {what}: {error.message if isinstance(error, AgentError) else error}")
        self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._pause * random.uniform(0.7, 1.3))  # noqa: S311  # jitter, not a secret

    def over(self) -> None:
        if self._pause:
            log.info("work goes on", extra={"action": "outage_over"})
        self._pause = 0.0


def turn_file(record: Path, *, order_fairness: bool) -> Path | None:
    """Where the round of order fairness is kept, beside the record of who holds the worker id."""
    return record.with_suffix(".round") if order_fairness else None
