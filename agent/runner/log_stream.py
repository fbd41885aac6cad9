"""Ships a run's console to the server: in order, every line, each once.

One range of records at a time. Before it is sent, the range is written down in `shipped.json`; after the server
has acknowledged it, the position moves on. So whatever dies in between, the next sender repeats exactly the same range,
which becomes exactly the same events. Whether a range whose reply was lost had arrived is decided by the
server, where it knows event ids, and by looking at the task's log elsewhere.
"""

from __future__ import annotations

import asyncio
import logging

from agent.api import events
from agent.api.client import AsyncClient
from agent.api.server import Features
from agent.errors import ApiError, CredentialsRefused, ServerUnreachable
from agent.models import Json
from agent.runner.console import Console, Position, Range
from agent.steps import Step, reached
from agent.wire import text, whole

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
#: A task that has been quiet for a while is looked at less often, and still seen well within a second.
QUIET_AFTER_SECONDS = 5.0
QUIET_LOOK_SECONDS = 0.4
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0


class LogStream:
    """The console of one task on its way to the server."""

    def __init__(
        self, console: Console, api: AsyncClient, features: Features, *, task: str, worker: str, run: str
    ) -> None:
        self._console = console
        self._api = api
        self._features = features
        self._task = task
        self._worker = worker
        self._run = run
        self._position, self._last_ms, self._doubtful = console.read_shipped()
        self._finishing = asyncio.Event()

    @property
    def position(self) -> Position:
        return self._position

    def finish(self) -> None:
        """No more output will come: `run` ships what is there and returns."""
        self._finishing.set()

    async def run(self) -> None:
        """Ship until told to finish and everything is acknowledged. An outage is waited out, however long.

        So is a full disk: what is about to be sent has to be written down first.
        """
        while True:
            finishing = self._finishing.is_set()
            try:
                chunk = self._doubtful or self._next()
                if chunk is not None:
                    await self._ship(chunk)
                elif finishing:
                    return
                else:
                    await self._wait_for_output()
            except OSError as error:
                log.warning(
                    "the console of task %s waits: %s", self._task, error, extra={"action": "ship", "task": self._task}
                )
                await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    def _next(self) -> Range | None:
        """The next records. The end is not taken from the cheap look: it ends where a segment has been lost."""
        if not self._finishing.is_set() and not self._console.size_after(self._position):
            return None
        return self._console.next_range(self._position, after_ms=self._last_ms)

    async def _wait_for_output(self) -> None:
        quiet = 0.0
        while not self._finishing.is_set():
            pause = LOOK_SECONDS if quiet < QUIET_AFTER_SECONDS else QUIET_LOOK_SECONDS
            try:
                await asyncio.wait_for(self._finishing.wait(), pause)
            except TimeoutError:
                if self._console.size_after(self._position):
                    return
                quiet += pause

    async def _ship(self, chunk: Range) -> None:
        batch = await asyncio.to_thread(self._events_of, chunk)
        doubtful = self._doubtful is not None
        self._console.write_shipped(self._position, self._last_ms, chunk)
        reached(Step.CONSOLE_NOTED)
        pause = FIRST_PAUSE_SECONDS
        while not await self._try_to_send(batch, doubtful=doubtful):
            doubtful = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        reached(Step.CONSOLE_SENT)
        self._doubtful = None
        self._position = chunk.position
        if batch:
            self._last_ms = int(batch[-1]["timestamp"])
        self._console.write_shipped(self._position, self._last_ms, None)
        reached(Step.CONSOLE_KEPT)

    def _events_of(self, chunk: Range) -> list[Json]:
        batch = self._console.events_of(chunk, task=self._task, worker=self._worker, run=self._run)
        if not self._features.log_ids:
            for event in batch:
                del event["event_id"]
        return batch

    async def _try_to_send(self, batch: list[Json], *, doubtful: bool) -> bool:
        try:
            if doubtful and not self._features.log_ids:
                batch = await self._missing_of(batch)
            if batch:
                await self._api.send(events.add_batch(batch))
        except (ServerUnreachable, CredentialsRefused) as error:
            if isinstance(error, CredentialsRefused) and self._finishing.is_set():
                raise  # the agent is about to end for the same reason; the next one ships the rest
            log.warning(
                "the console of task %s waits: %s",
                self._task,
                error.message,
                extra={"action": "ship", "task": self._task},
            )
            return False
        except ApiError as error:
            if error.is_server_fault:
                log.warning(
                    "the console of task %s waits: %s",
                    self._task,
                    error.message,
                    extra={"action": "ship", "task": self._task},
                )
                return False
            # The server will never take these (task deleted or published): they stay on this host's disk.
            log.error(
                "the server refuses console lines of task %s: %s", self._task, error.message, extra={"task": self._task}
            )
        return True

    async def _missing_of(self, batch: list[Json]) -> list[Json]:
        """The events of `batch` that the server does not have, found by reading the log back."""
        stored: set[tuple[int, str]] = set()
        after, last = int(batch[0]["timestamp"]) - 1, int(batch[-1]["timestamp"])
        while True:
            page = await self._api.send(events.log_after(self._task, after))
            stored.update((whole(event.get("timestamp")) or 0, text(event.get("msg"))) for event in page)
            reached_ms = (whole(page[-1].get("timestamp")) or 0) if page else 0
            if reached_ms > last or reached_ms <= after:
                break
            after = reached_ms
        return [event for event in batch if (event["timestamp"], event["msg"]) not in stored]
