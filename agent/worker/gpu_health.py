"""What is wrong with the GPUs of an agent: asks for it, judges it with what was before, and remembers that.

The judging is in `agent.gpu.health`. What was found stays through a restart of the agent; a boot is a new beginning.
"""

from __future__ import annotations

import asyncio
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
from agent.runner.aside import Question
from agent.worker.marks import Mark, since_boot

if TYPE_CHECKING:
    from agent.gpu.checkup import Findings

log = logging.getLogger(__name__)


class Gpus(Protocol):
    """Who looks at the GPUs (`agent.gpu.checkup`), in a thread."""

    def look(self, now: float) -> Findings: ...

    def close(self) -> None: ...


class GpuHealth:
    """The health of an agent's GPUs.

    `shares_out`: each task gets some of them, so a sick one only takes itself out. `is_incomplete`: some were missing
    when the agent started. `record` is where the agent's marks are.
    """

    def __init__(
        self,
        wanted: HealthSettings,
        record: Path,
        gpus: Gpus,
        *,
        shares_out: bool = False,
        is_incomplete: bool = False,
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._wanted = wanted
        self._gpus = gpus
        self._shares_out = shares_out
        self._is_incomplete = is_incomplete
        self._clock = clock
        self._driver = Question()
        self._mark = Mark(record, "health")
        self._past = past_from(self._mark.read() or {})
        self._conditions: Mapping[Device, Condition] = {}
        self._silence = ""
        #: Set once the GPUs that were missing at the start are there: who has them needs to be found out anew.
        self.is_complete = asyncio.Event()

    async def look(self) -> None:
        """Ask the driver, for as long as it may take to answer."""
        now, seconds = self._clock(), self._wanted.answer_seconds
        try:
            findings = await self._driver.ask(lambda: self._gpus.look(now), seconds=seconds)
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
            () if self._silence else self._conditions.values(),
            [xid for xid in xids if xid.number not in ignored],
            quiet=self._wanted.xid_quiet_seconds,
            now=now,
        )
        self._remember(still_acknowledged(past, self._conditions.values()))

    def _remember(self, past: Past) -> None:
        if past != self._past:
            self._past = past
            self._mark.write(**past_to_json(past))

    def reasons(self) -> list[str]:
        """What is wrong, if it is enough to take no task at all."""
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

    def fault(self, labels: Sequence[str]) -> str:
        """What is wrong with these GPUs (none: all of the agent), in a sentence; empty if nothing is known to be."""
        if self._silence:
            return self._silence
        mine = [device for device in self._conditions if not labels or device.label in labels]
        return "; ".join(f"{device.name} {why}" for device in mine if (why := self._why_sick(device)))

    def acknowledge(self) -> None:
        """Live with what is known, unless it is lost."""
        self._remember(acknowledged(self._past, self._conditions.values()))


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
