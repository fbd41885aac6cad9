"""What the server does unasked: one loop, everything idempotent.

every 2 s    entries of workers are written; expired pop leases go back to the front of their queues
every 60 s   queue entries and statuses are made to agree; tombstones, properties and such are forgotten
every 900 s  running tasks of which nothing was heard for two hours are stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from .config import ServerConfig
from .store import popping, queues, task_status
from .store import workers as worker_store
from .store.database import Database, Transaction
from .workers import Workers

log = logging.getLogger(__name__)


class Housekeeper:
    """The loop; failures are logged and tried again next time."""

    def __init__(self, db: Database, workers: Workers, config: ServerConfig) -> None:
        self._db = db
        self._workers = workers
        self._config = config
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="housekeeping")

    async def stop(self) -> None:
        """End; safe at any point."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        chores: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (config.housekeeping_seconds, self.keep_up),
            (config.reconcile_seconds, self.reconcile),
            (config.watchdog_seconds, self.watch),
        )
        due = [loop.time() + interval for interval, _chore in chores]
        while True:
            await asyncio.sleep(max(min(due) - loop.time(), 0))
            for index, (interval, chore) in enumerate(chores):
                if due[index] <= loop.time():
                    await self._try(chore)
                    due[index] = loop.time() + interval

    async def _try(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except Exception:  # the next round tries again; the server goes on
            log.exception("housekeeping failed", extra={"action": "housekeeping.error"})

    async def keep_up(self) -> None:
        """Workers to disk, lost pops back to their queues."""
        await self._workers.flush()
        if await self._db.read(popping.expired_leases):
            for entry in await self._db.write(popping.return_expired):
                log.warning(
                    "task %s was popped and never started: back to its queue", entry.task, extra=_lost(entry.task)
                )

    async def reconcile(self) -> None:
        """Entries and statuses agree; old things are forgotten."""
        older_than = self._config.reconcile_seconds
        if await self._db.read(lambda tx: task_status.needs_reconciling(tx, older_than)):
            repaired = await self._db.write(lambda tx: task_status.reconcile(tx, older_than))
            log.warning("%d tasks and queues did not agree", repaired, extra={"action": "reconcile"})
        await self._db.write(self._forget)

    def _forget(self, tx: Transaction) -> None:
        queues.bury_old(tx, self._config.tombstone_seconds)
        worker_store.forget_expired_properties(tx)

    async def watch(self) -> None:
        """Tasks that went silent are stopped."""
        longer_than = self._config.non_responsive_seconds
        if await self._db.read(lambda tx: task_status.silent(tx, longer_than)):
            for task in await self._db.write(lambda tx: task_status.stop_silent(tx, longer_than)):
                log.warning("task %s is not responsive: stopped", task, extra={"action": "watchdog", "task": task})


def _lost(task: str) -> dict[str, str]:
    return {"action": "lease.expired", "task": task}
