"""Keeps the worker on the server's list: a report every 30 s with the machine's readings, and one at each change.

Reports are the agent's heartbeat (the server forgets a worker after 600 s without one), so a failure is only logged;
the next report registers the worker again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from agent.api import workers
from agent.api.client import AsyncClient
from agent.errors import AgentError
from agent.models import Json
from agent.runner.machine import MachineSampler

log = logging.getLogger(__name__)

FIRST_REPORT_SECONDS = 3.0
READINGS_SECONDS = 20.0
#: A tag of the worker on the server while it takes no further task.
DRAINING = "draining"
SHORTEST_INTERVAL_SECONDS = 0.1


class Presence:
    """What the server is told of this worker."""

    def __init__(
        self,
        api: AsyncClient,
        *,
        worker: str,
        queues: Sequence[str],
        tags: Sequence[str],
        sampler: MachineSampler,
        interval_seconds: float,
    ) -> None:
        self._api = api
        self._worker = worker
        self._queues = tuple(queues)
        self._tags = tuple(tags)
        self._sampler = sampler
        self._interval = max(interval_seconds, SHORTEST_INTERVAL_SECONDS)
        self._reading: asyncio.Future[Json] | None = None
        self._task: str | None = None
        self._queue: str | None = None

    async def register(self) -> None:
        await self._api.send(workers.register(self._worker, queues=self._queues, tags=self._tags))

    async def unregister(self) -> None:
        try:
            await asyncio.wait_for(self._api.send(workers.unregister(self._worker)), timeout=5.0)
        except (AgentError, TimeoutError) as error:
            log.warning("could not say goodbye to the server: %s", error)

    async def announce(self, task: str | None, queue: str | None) -> None:
        """Tell at once what the worker runs now."""
        self._task, self._queue = task, queue
        await self._report(None)

    async def tell_of_drain(self) -> None:
        """Tell, from now on, that no further task is taken."""
        self._tags = tuple(dict.fromkeys((*self._tags, DRAINING)))
        await self._report(None)

    async def run(self) -> None:
        """Report until cancelled."""
        await asyncio.sleep(FIRST_REPORT_SECONDS)
        while True:
            await self._report(await self._readings())
            await asyncio.sleep(self._interval)

    async def _readings(self) -> Json | None:
        """What the machine does; a sensor that fails, or a disk that hangs, costs the readings and not the report."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._sampler.sample))
        done, _ = await asyncio.wait((self._reading,), timeout=READINGS_SECONDS)
        if not done:
            log.warning("the machine does not answer how it is", extra={"action": "machine_stats"})
            return None
        reading, self._reading = self._reading, None
        try:
            return reading.result()
        except Exception:
            log.exception("the machine cannot be read", extra={"action": "machine_stats"})
            return None

    async def _report(self, machine_stats: Json | None) -> None:
        report = workers.status_report(
            self._worker,
            queues=self._queues,
            task=self._task,
            queue=self._queue,
            tags=self._tags,
            machine_stats=machine_stats,
        )
        try:
            await self._api.send(report)
        except AgentError as error:
            log.warning("the status report was not taken: %s", error.message, extra={"action": "status_report"})
