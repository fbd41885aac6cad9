"""Keeps an agent from taking tasks that its host would fail: a broken GPU, a full disk, one failed set-up after
another.

It looks every so often and before each task, and puts a bar (`bars.py`) as long as something is wrong. What runs is
left alone. The judging is in `gpu_health.py`, `disks.py` and `streak.py`; this is who has them look, and tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.config.schema import HealthSettings
from agent.logs import current_redactor
from agent.runner.aside import Question
from agent.runner.rundir import Claim, RunDirectory
from agent.worker import disks
from agent.worker.bars import Bars
from agent.worker.marks import since_boot
from agent.worker.standing import Standing
from agent.worker.streak import Streak

if TYPE_CHECKING:
    from agent.worker.gpu_health import GpuHealth

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_SECONDS = 0.1


class Health:
    """The health of one agent's host. `gpus` is None where there are none to look at; `folders` are on the disks that
    need room.
    """

    def __init__(
        self,
        wanted: HealthSettings,
        bars: Bars,
        *,
        gpus: GpuHealth | None = None,
        folders: tuple[str, ...] = (),
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._wanted = wanted
        self._bars = bars
        self._gpus = gpus
        self._folders = folders
        self._disk = Question()
        self._full: dict[str, str] = {}
        self._streak = Streak(wanted.failures_in_a_row, clock=clock)
        self._wake = asyncio.Event()

    @property
    def _is_on(self) -> bool:
        return self._wanted.interval_seconds > 0

    async def run(self) -> None:
        """Look every so often, until cancelled."""
        while self._is_on:
            await self.look()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    def _pause(self) -> float:
        """Until the next look; one is due when the pause after failures is over."""
        interval = max(self._wanted.interval_seconds, SHORTEST_INTERVAL_SECONDS)
        left = self._streak.seconds_left()
        return min(interval, left) if left else interval

    async def look(self) -> None:
        """Find out how everything is now, and put or lift the bar."""
        if not self._is_on:
            return
        try:
            await asyncio.gather(self._look_at_gpus(), self._look_at_disks())
        except Exception:  # a look that fails has found nothing, and ends neither the loop nor a claim
            log.exception("the health of this host cannot be told", extra={"action": "health"})
        self._streak.look()
        self._tell()

    async def _look_at_gpus(self) -> None:
        if self._gpus is not None:
            await self._gpus.look()

    async def _look_at_disks(self) -> None:
        least, seconds = self._wanted.least_free_disk_gb * disks.GIB, self._wanted.answer_seconds
        if not least or not self._folders:
            return
        try:
            seen = await self._disk.ask(lambda: disks.rooms(self._folders), seconds=seconds)
            self._full = disks.short_of(seen, self._full, least=least)
        except TimeoutError:
            self._full = {"": f"disk: one of {', '.join(self._folders)} has not answered for {seconds:g} s"}

    def _tell(self) -> None:
        of_gpus = self._gpus.reasons() if self._gpus is not None else []
        reasons = [*of_gpus, *self._full.values(), self._streak.why_not()]
        if why := current_redactor()("; ".join(filter(None, reasons))):
            self._bars.put(Standing.CORDONED, why)
        else:
            self._bars.lift(Standing.CORDONED)

    def sick(self) -> dict[str, str]:
        """What is wrong with which GPUs, by their labels."""
        return self._gpus.sick() if self._gpus is not None else {}

    def fault(self, claim: Claim) -> str:
        """What is wrong with the GPUs that a task runs on, in a sentence; empty if nothing is, or nobody knows."""
        return self._gpus.fault(claim.devices) if self._gpus is not None else ""

    async def until_complete(self) -> None:
        """Return when GPUs that were missing at the start are there; never where none was."""
        await (self._gpus.is_complete.wait() if self._gpus is not None else asyncio.Event().wait())

    def began(self, run: RunDirectory) -> None:
        """A task was started."""
        self._streak.began(run)
        if self._is_on:
            self._tell()

    def ended(self, run: RunDirectory) -> None:
        """A run has ended, and its directory is still there."""
        self._streak.ended(run)
        if self._is_on:
            self._tell()
        self._wake.set()

    def acknowledge(self) -> None:
        """An operator says to go on with what is known; what is new cordons again, and what is lost stays lost."""
        log.info("what was wrong is acknowledged: %s", self._bars.stand.why or "nothing", extra={"action": "health"})
        if self._gpus is not None:
            self._gpus.acknowledge()
        self._streak.forget()
        if self._is_on:
            self._tell()
        self._wake.set()
