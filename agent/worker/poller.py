"""Where the next task comes from: queues resolved once, then asked in order until one has a task for us.

Strict priority asks in the given order every time. With order fairness, the queue after the one that gave the last task
is asked first.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import random
import re
from collections.abc import Callable, Sequence

from agent.api import queues
from agent.api.client import AsyncClient
from agent.api.queues import Queue, Waiting
from agent.errors import AgentError, ApiError, ServerUnreachable, UnknownQueue
from agent.runner.claim import Claimed, Source, claim_task, claim_unnamed, first_listed, next_waiting
from agent.runner.rundir import Runs

log = logging.getLogger(__name__)

#: What the server is asked to hold a request for; an idle agent makes one request in this time.
HOLD_SECONDS = 25.0
#: A server that does not hold the request after all (it is stopping, say) is not asked more often than this.
SHORTEST_ROUND_SECONDS = 1.0
SHORTEST_INTERVAL_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
LOOKS_LIKE_AN_ID = re.compile(r"^[-a-f0-9]{30,}$")


async def resolve_queues(api: AsyncClient, wanted: Sequence[str], *, create: bool) -> tuple[Queue, ...]:
    """The queues that names or ids stand for, in order; without any, the server's default queue.

    Names are compared in any letter case. Raises UnknownQueue, with names that are close, unless `create`.
    """
    if not wanted:
        return (await _default_queue(api),)
    known = await api.send(queues.every())
    found = []
    for name in wanted:
        queue = _find(known, name)
        if queue is None and create:
            queue = Queue(await api.send(queues.create(name)), name)
        if queue is None:
            raise UnknownQueue(f"the server has no queue {name!r}", hint=_suggestion(name, known))
        if queue not in found:
            found.append(queue)
    return tuple(found)


async def _default_queue(api: AsyncClient) -> Queue:
    try:
        identifier = await api.send(queues.default())
    except ApiError:
        known = await api.send(queues.every())
        queue = _find(known, "default")
        if queue is None:
            raise UnknownQueue(
                "no --queue was given and the server has no default queue", hint=_suggestion("default", known)
            ) from None
        return queue
    described = await api.send(queues.by_ids([identifier]))
    return described[0] if described else Queue(identifier, "default")


def _find(known: Sequence[Queue], wanted: str) -> Queue | None:
    if LOOKS_LIKE_AN_ID.match(wanted):
        return next((queue for queue in known if queue.id == wanted), None)
    exact = [queue for queue in known if queue.name == wanted]
    alike = exact or [queue for queue in known if queue.name.lower() == wanted.lower()]
    return alike[0] if alike else None


def _suggestion(wanted: str, known: Sequence[Queue]) -> str:
    close = difflib.get_close_matches(wanted, [queue.name for queue in known], n=3)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)}? --create-queue makes it"
    names = ", ".join(sorted(queue.name for queue in known)[:10]) or "none"
    return f"It has: {names}. --create-queue makes a new one"


class Poller:
    """Finds and claims the next task, and waits out a server that is away."""

    def __init__(
        self,
        api: AsyncClient,
        source: Source,
        runs: Runs,
        *,
        worker: str,
        polling_interval_seconds: float,
        order_fairness: bool,
    ) -> None:
        self._api = api
        self._source = source
        self._runs = runs
        self._worker = worker
        self._interval = max(polling_interval_seconds, SHORTEST_INTERVAL_SECONDS)
        self._fair = order_fairness
        self._order = list(source.ids)

    async def next_waiting(self) -> Waiting | None:
        """One round: a task that waits for us, or None after having waited for one in vain. Takes nothing."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._source.can_pop_by_name:
            waiting = await next_waiting(self._api, self._source, self._order, hold_seconds=HOLD_SECONDS)
        else:
            waiting = await first_listed(self._api, self._order)
        if waiting is None:
            holds = self._source.features.wait_for_task and self._source.can_pop_by_name
            pause = SHORTEST_ROUND_SECONDS if holds else self._interval
            await asyncio.sleep(max(0.0, began + pause - loop.time()) if holds else pause)
        return waiting

    async def claim(self, waiting: Waiting) -> Claimed | None:
        """Take what was seen waiting; None if somebody else was faster."""
        if self._fair and waiting.queue in self._order:
            turn = self._order.index(waiting.queue) + 1
            self._order = self._order[turn:] + self._order[:turn]
        if self._source.can_pop_by_name:
            return await claim_task(self._api, self._source, self._runs, waiting, worker=self._worker)
        return await claim_unnamed(self._api, self._source, self._runs, waiting, worker=self._worker)


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

    async def wait(self, error: ServerUnreachable | ApiError | OSError) -> None:
        what = "this host" if isinstance(error, OSError) else "the server"
        if not self._pause:
            log.warning("waiting for %s: %s", what, error, extra={"action": "outage"})
        self._say(f"waiting for {what}: {error.message if isinstance(error, AgentError) else error}")
        self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(self._pause * random.uniform(0.7, 1.3))  # noqa: S311  # jitter, not a secret

    def over(self) -> None:
        if self._pause:
            log.info("work goes on", extra={"action": "outage_over"})
        self._pause = 0.0
