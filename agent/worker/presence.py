"""Keeps the worker on the server's list: a report every 30 s with the machine's readings, and one at each change (of
its task, its queues, or whether it takes tasks at all, see `standing.py`).

Reports are the agent's heartbeat (the server forgets a worker after 600 s without one), so a failure is only logged;
the next report registers the worker again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

from agent import __version__
from agent.api import workers
from agent.api.client import AsyncClient
from agent.errors import AgentError, ApiError
from agent.models import Json
from agent.runner.aside import aside
from agent.runner.machine import MachineSampler
from agent.worker.standing import Stand, Standing

log = logging.getLogger(__name__)

FIRST_REPORT_SECONDS = 3.0
READINGS_SECONDS = 20.0
SHORTEST_INTERVAL_SECONDS = 0.1
#: A tag of every worker, by which a roll-out sees on any ClearML server who has come back with which version.
VERSION_TAG = f"gpufleet {__version__}"


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
        self._stand = Stand()
        self._is_draining = False
        self._properties: dict[str, str] = {}
        self._published: Mapping[str, str] = {}
        self._keeps_properties = True
        self._news = asyncio.Event()

    async def register(self) -> None:
        await self._api.send(workers.register(self._worker, queues=self._queues, tags=self._all_tags()))

    async def unregister(self) -> None:
        try:
            await asyncio.wait_for(self._api.send(workers.unregister(self._worker)), timeout=5.0)
        except (AgentError, TimeoutError) as error:
            log.warning("could not say goodbye to the server: %s", error)

    async def announce(self, task: str | None, queue: str | None) -> None:
        """Tell at once what the worker runs now."""
        self._task, self._queue = task, queue
        await self._report(None)

    def tell_of_drain(self) -> None:
        """Tell, from now on, that no further task is taken."""
        self._is_draining = True
        self._news.set()

    def tell(self, stand: Stand) -> None:
        """Tell whether tasks are taken; said only when it has changed."""
        if stand != self._stand:
            self._stand = stand
            level = logging.WARNING if stand.standing is Standing.CORDONED else logging.INFO
            log.log(level, "%s", stand.tag or "open", extra={"action": "standing"})
            self._news.set()

    @property
    def stand(self) -> Stand:
        """What is told of it."""
        return Stand(standing=Standing.DRAINING) if self._is_draining else self._stand

    def listen_to(self, queues: Sequence[str]) -> None:
        """Other queues from now on."""
        self._queues = tuple(queues)
        self._news.set()

    def publish(self, key: str, value: str) -> None:
        """Set a runtime property of the worker, where the server keeps such."""
        if self._properties.get(key) != value:
            self._properties[key] = value
            self._news.set()

    async def run(self) -> None:
        """Report until cancelled: every so often with readings, and at once what has changed."""
        loop = asyncio.get_running_loop()
        due = loop.time() + FIRST_REPORT_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._news.wait()
            self._news.clear()
            is_due = loop.time() >= due
            await self._report(await self._readings() if is_due else None)
            await self._publish()
            due = loop.time() + self._interval if is_due else due

    async def _publish(self) -> None:
        values = {key: value for key, value in self._properties.items() if self._published.get(key) != value}
        if not values or not self._keeps_properties:
            return
        try:
            await self._api.send(workers.set_runtime_properties(self._worker, values))
            self._published = {**self._published, **values}
        except AgentError as error:
            self._keeps_properties = not (isinstance(error, ApiError) and not error.is_server_fault)
            log.debug("properties were not taken: %s", error.message)

    def _all_tags(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (*self._tags, VERSION_TAG, self.stand.tag))))

    async def _readings(self) -> Json | None:
        """What the machine does; a sensor that fails, or a disk that hangs, costs the readings and not the report."""
        if self._reading is None:
            self._reading = aside(self._sampler.sample)
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
            tags=self._all_tags(),
            machine_stats=machine_stats,
        )
        try:
            await self._api.send(report)
        except AgentError as error:
            log.warning("the status report was not taken: %s", error.message, extra={"action": "status_report"})
