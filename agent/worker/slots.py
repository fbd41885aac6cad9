"""How many tasks a worker runs at once, and what each of them gets.

| slots       | tasks at once               | runs as                      | gets                                |
|-------------|-----------------------------|------------------------------|-------------------------------------|
| `OneSlot`   | one                         | the worker itself            | the worker's GPUs, or its share     |
| `Services`  | as many as are allowed      | `<worker>:service:<task>`    | no GPU                              |
| `DynamicGpus` (dynamic_gpus.py) | as the GPUs allow | `<name>:gpu<list>`  | as many GPUs as its queue says      |
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.api.queues import Waiting
from agent.gpu.leases import PERCENTS, Leases
from agent.runner.aside import aside
from agent.runner.rundir import Claim

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one task runs: as which worker, with which variables over those of the agent, on which devices.

    `leases` are descriptors that keep the devices ours while anybody holds them; `is_own`: the worker is the agent
    itself, not one below it.
    """

    worker: str
    is_own: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    leases: tuple[int, ...] = ()

    def close(self) -> None:
        """Let go of the leases; who else holds them still has the devices."""
        for descriptor in self.leases:
            os.close(descriptor)


class Slots(Protocol):
    """The slots of a worker. `place` is a queue's number in order of preference."""

    @property
    def why_not(self) -> str:
        """What is missing for a task to start though a slot is free; empty where nothing is."""
        ...

    @property
    def look_again_seconds(self) -> float | None:
        """How soon what is offered may have changed without our doing; None: only we change it."""
        ...

    @property
    def available(self) -> str | None:
        """What the runtime property `available_gpus` says; None where GPUs are not shared out."""
        ...

    @property
    def listens_while_full(self) -> bool:
        """Whether what is said from outside may make room, so that it is worth hearing while nothing is offered."""
        ...

    async def look(self, waiting_since: Mapping[int, float]) -> None:
        """Find out what could start now, `waiting_since`: when a task was first seen that waits in a queue (by place)
        and is not offered anything (loop time).
        """
        ...

    def offers(self, place: int) -> bool:
        """Whether a task of this queue could start now."""
        ...

    def take(self, place: int, waiting: Waiting) -> Slot | None:
        """A slot for this task; None if there is none after all. It is ours until `release`."""
        ...

    def adopt(self, claim: Claim) -> Slot:
        """The slot of a run that was found, which takes its place."""
        ...

    def release(self, slot: Slot) -> None:
        """The run in this slot is over, or did not come about."""
        ...


class Guard(Protocol):
    """What else has to be true before a task may start in the one slot of an agent with GPUs."""

    def why_not(self) -> str:
        """Empty if it is true. May take a while (drivers): called in a thread."""
        ...

    @property
    def leases(self) -> tuple[int, ...]:
        """Descriptors that tasks are to hold."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables of tasks."""
        ...


class OneSlot:
    """One task at a time, as the worker itself."""

    LOOK_AGAIN_SECONDS = 5.0
    listens_while_full = False
    available = None

    def __init__(self, worker: str, guard: Guard | None = None) -> None:
        self._worker = worker
        self._guard = guard
        self._taken = 0
        self.why_not = ""

    @property
    def look_again_seconds(self) -> float | None:
        return self.LOOK_AGAIN_SECONDS if self.why_not else None

    async def look(self, waiting_since: Mapping[int, float]) -> None:
        if self._guard is not None and not self._taken:
            self.why_not = await aside(self._guard.why_not)

    def offers(self, place: int) -> bool:
        return not self._taken and not self.why_not

    def take(self, place: int, waiting: Waiting) -> Slot | None:
        self._taken += 1
        guard = self._guard
        # the task gets duplicates: the agent keeps its own leases whatever becomes of the slot
        return Slot(
            worker=self._worker,
            is_own=True,
            environment=guard.environment if guard else {},
            leases=tuple(os.dup(descriptor) for descriptor in guard.leases) if guard else (),
        )

    def adopt(self, claim: Claim) -> Slot:
        self._taken += 1
        return Slot(worker=claim.worker, is_own=claim.worker == self._worker)

    def release(self, slot: Slot) -> None:
        self._taken -= 1
        slot.close()


class Services:
    """Many light tasks, each as a worker of its own below the agent. `limit` None: any number."""

    listens_while_full = True
    available = None

    def __init__(self, worker: str, limit: int | None) -> None:
        self._worker = worker
        self._running: list[Slot] = []
        self.limit = limit
        self.why_not = ""
        self.look_again_seconds = None

    async def look(self, waiting_since: Mapping[int, float]) -> None:
        return

    def offers(self, place: int) -> bool:
        return self.limit is None or len(self._running) < self.limit

    def take(self, place: int, waiting: Waiting) -> Slot | None:
        return self._enter(Slot(worker=f"{self._worker}:service:{waiting.task}"))

    def adopt(self, claim: Claim) -> Slot:
        return self._enter(Slot(worker=claim.worker))

    def release(self, slot: Slot) -> None:
        self._running.remove(slot)

    def _enter(self, slot: Slot) -> Slot:
        self._running.append(slot)
        return slot


class OwnGpus:
    """The guard of an agent that was given GPUs: nobody has them alone, and, of a share, its memory is free.

    `units` are (label, UUID); `percents` None: the whole of them, and no more than that nobody else has one alone.
    """

    def __init__(
        self,
        leases: Leases,
        units: Sequence[tuple[str, str]],
        *,
        percents: int | None = None,
        least_free_memory: float = 0.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._store = leases
        self._units = tuple(units)
        self._percents = percents
        self._least_free = least_free_memory
        self._held: dict[str, tuple[int, ...]] = {}
        self.environment: Mapping[str, str] = environment or {}

    @property
    def leases(self) -> tuple[int, ...]:
        return tuple(descriptor for of_unit in self._held.values() for descriptor in of_unit)

    def why_not(self) -> str:
        for label, uuid in self._units:
            if uuid not in self._held and (reason := self._take(label, uuid)):
                return reason
        if self._percents is None:
            return ""
        return self._memory_missing(self._percents / PERCENTS * self._least_free)

    def _take(self, label: str, uuid: str) -> str:
        lease = self._store.take(uuid, alone=False)
        if lease is None:
            return f"GPU {label} is given to a task of an agent with --dynamic-gpus"
        if self._percents is None:
            self._held[uuid] = (lease,)
            return ""
        percents = self._store.take_percents(uuid, self._percents)
        if percents is None:
            os.close(lease)
            return f"less than {self._percents} % of GPU {label} are left by the other agents that share it"
        self._held[uuid] = (lease, percents)
        return ""

    def _memory_missing(self, least: float) -> str:
        from agent.gpu.nvml import GpuLost, Nvml, NvmlFailed

        try:
            with Nvml() as nvml:
                for label, uuid in self._units:
                    reading = nvml.reading(uuid)
                    free, used = reading.memory_free_mib or 0.0, reading.memory_used_mib or 0.0
                    if free < (needed := least * (free + used)):
                        return f"GPU {label} has {free / 1024:.1f} GiB of memory free, of {needed / 1024:.1f} needed"
        except (NvmlFailed, GpuLost) as error:
            return f"the memory of the GPUs cannot be read: {error}"
        return ""
