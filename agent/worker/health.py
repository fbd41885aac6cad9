"""Keeps an agent from taking tasks that its host would fail: a broken GPU, a full disk, one failed set-up after
another.

It looks every so often and before each task, and puts a bar (`bars.py`) as long as something is wrong. What runs is
left alone. The judging is in `agent.gpu.health`, `disks.py` and `streak.py`; this is who asks, remembers, and tells.

A GPU that was found sick stays so through a restart of the agent; a boot is a new beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agent.config.schema import HealthSettings
from agent.gpu.health import (
    NO_PAST,
    Condition,
    Device,
    Past,
    Xid,
    acknowledged,
    faults_of,
    grown,
    still_acknowledged,
)
from agent.logs import current_redactor
from agent.runner.aside import Question
from agent.runner.rundir import Claim, RunDirectory
from agent.worker import disks
from agent.worker.bars import Bars
from agent.worker.marks import Mark, since_boot
from agent.worker.standing import Standing
from agent.worker.streak import Streak

if TYPE_CHECKING:
    from agent.gpu.checkup import Findings

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_SECONDS = 0.1


class Gpus(Protocol):
    """Who looks at the GPUs (`agent.gpu.checkup`), in a thread."""

    def look(self, now: float) -> Findings: ...

    def close(self) -> None: ...


class Health:
    """The health of one agent's host. `gpus` is None where there are none to look at.

    `shares_out`: each task gets some of the GPUs, so a sick one only takes itself out. `is_incomplete`: some GPUs were
    missing when the agent started. `folders` are on the disks that need room, `record` is where its marks are.
    """

    def __init__(
        self,
        wanted: HealthSettings,
        bars: Bars,
        record: Path,
        *,
        gpus: Gpus | None = None,
        shares_out: bool = False,
        is_incomplete: bool = False,
        folders: tuple[str, ...] = (),
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._wanted = wanted
        self._bars = bars
        self._gpus = gpus
        self._shares_out = shares_out
        self._is_incomplete = is_incomplete
        self._folders = folders
        self._clock = clock
        self._driver, self._disk = Question(), Question()
        self._mark = Mark(record, "health")
        self._past = past_from(self._mark.read() or {})
        self._conditions: Mapping[Device, Condition] = {}
        self._silence = ""
        self._full: dict[str, str] = {}
        self._streak = Streak(wanted.failures_in_a_row, clock=clock)
        self._wake = asyncio.Event()
        #: Set once the GPUs that were missing at the start are there: who has them needs to be found out anew.
        self.is_complete = asyncio.Event()

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
        gpus = self._gpus
        if gpus is None:
            return
        now, seconds = self._clock(), self._wanted.answer_seconds
        try:
            findings = await self._driver.ask(lambda: gpus.look(now), seconds=seconds)
        except TimeoutError:
            self._silence = f"the GPU driver has not answered for {seconds:g} s"
            return
        self._silence = f"the GPU driver does not answer ({findings.silence})" if findings.silence else ""
        if not self._silence:
            self._conditions = findings.conditions
            if self._is_incomplete and findings.is_complete:
                self.is_complete.set()
        self._take_in(findings.xids, now)

    def _take_in(self, xids: Sequence[Xid], now: float) -> None:
        ignored = self._wanted.ignored_xids
        for xid in xids:
            what = "is ignored" if xid.number in ignored else "counts against it"
            log.warning("GPU %s reported XID %d, which %s", xid.gpu, xid.number, what, extra={"action": "xid"})
        past = grown(
            self._past,
            self._conditions.values(),
            [xid for xid in xids if xid.number not in ignored],
            quiet=self._wanted.xid_quiet_seconds,
            now=now,
        )
        self._remember(still_acknowledged(past, self._conditions.values()))

    def _remember(self, past: Past) -> None:
        if past != self._past:
            self._past = past
            self._mark.write(**past_to_json(past))

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
        reasons = [*self._of_gpus(), *self._full.values(), self._streak.why_not()]
        if why := current_redactor()("; ".join(filter(None, reasons))):
            self._bars.put(Standing.CORDONED, why)
        else:
            self._bars.lift(Standing.CORDONED)

    def _of_gpus(self) -> list[str]:
        """What is wrong with the GPUs, if it is enough to take no task at all."""
        if self._silence:
            return [self._silence]
        sick = [f"{device.name} {why}" for device in self._conditions if (why := self._why_sick(device))]
        return [] if self._shares_out and len(sick) < len(self._conditions) else sick

    def _why_sick(self, device: Device) -> str:
        faults = faults_of(self._past, self._conditions[device], label=device.label)
        return " and ".join(fault.what for fault in faults)

    def sick(self) -> dict[str, str]:
        """What is wrong with which GPUs, by their labels."""
        return {device.label: why for device in self._conditions if (why := self._why_sick(device))}

    def fault(self, claim: Claim) -> str:
        """What is wrong with the GPUs that a task runs on, in a sentence; empty if nothing is, or nobody knows."""
        if self._silence and self._gpus is not None:
            return self._silence
        mine = [device for device in self._conditions if not claim.devices or device.label in claim.devices]
        return "; ".join(f"{device.name} {why}" for device in mine if (why := self._why_sick(device)))

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
        self._remember(acknowledged(self._past, self._conditions.values()))
        self._streak.forget()
        if self._is_on:
            self._tell()
        self._wake.set()


def past_to_json(past: Past) -> dict[str, Any]:
    """What of a past is written down."""
    return {
        "uncorrected": dict(past.uncorrected),
        "xids": [asdict(xid) for xid in past.xids],
        "acknowledged": sorted(past.acknowledged),
    }


def past_from(data: Mapping[str, Any]) -> Past:
    """Undo `past_to_json`; what another version has written and we cannot read is forgotten."""
    try:
        return Past(
            uncorrected={str(gpu): int(count) for gpu, count in data.get("uncorrected", {}).items()},
            xids=tuple(Xid(**xid) for xid in data.get("xids", ())),
            acknowledged=frozenset(data.get("acknowledged", ())),
        )
    except (AttributeError, TypeError, ValueError) as error:
        log.warning("what was wrong with the GPUs before cannot be read: %s", error)
        return NO_PAST
