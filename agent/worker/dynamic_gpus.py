"""The slots of `--dynamic-gpus`: every task gets as many of the agent's GPUs as its queue says, and nobody else's.

What is free is found out before each round: not given by us, not sick, not leased by another agent of this host, and,
unless that is to be ignored, without processes of strangers on it. Who gets what of it is decided by
`agent.gpu.allocation`; what was decided is only true once the leases are in our hands.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence

from agent.api.queues import Waiting
from agent.gpu.allocation import Layout, Request, Unit, Wish, grants
from agent.gpu.leases import Leases
from agent.gpu.visible import CUDA, NVIDIA, ORDER
from agent.runner.aside import aside
from agent.runner.rundir import Claim
from agent.worker.slots import Slot

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 5.0


class DynamicGpus:
    """`wishes` are in the order of the queues. `name` is the first part of the sub-workers' ids.

    `sick` says of GPUs by their labels why no task is to have them. `names_by_uuid`: the agent was given its GPUs by
    UUID, perhaps behind a fence, where CUDA counts others than NVML.
    """

    listens_while_full = False

    def __init__(
        self,
        name: str,
        layout: Layout,
        wishes: Sequence[Wish],
        leases: Leases,
        *,
        reserve_after_seconds: float | None,
        spares_strangers: bool,
        names_by_uuid: bool = False,
        sick: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._name = name
        self._layout = layout
        self._wishes = tuple(wishes)
        self._leases = leases
        self._reserve_after = reserve_after_seconds
        self._spares_strangers = spares_strangers
        self._names_by_uuid = names_by_uuid
        self._sick = sick
        self._given: set[str] = set()
        self._in_the_way: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._waiting_since: Mapping[int, float] = {}
        self._grants: dict[str, tuple[Unit, ...]] = {}

    @property
    def why_not(self) -> str:
        """Why GPUs that are not ours to give are not; only where nothing at all can be given."""
        if self._grants or self._given or not self._in_the_way:
            return ""
        return "; ".join(f"GPU {label} {reason}" for label, reason in sorted(self._in_the_way.items()))

    @property
    def look_again_seconds(self) -> float | None:
        return LOOK_AGAIN_SECONDS if self._in_the_way or len(self._grants) < len(self._wishes) else None

    @property
    def available(self) -> str:
        """The free units as the runtime property `available_gpus` lists them: `<gpu>_<instance>`, 0 for a whole GPU."""
        free = sorted(self._free(), key=[unit.label for unit in self._layout.units].index)
        return ",".join(label.replace(":", "_") if ":" in label else f"{label}_0" for label in free)

    async def look(self, waiting_since: Mapping[int, float]) -> None:
        self._waiting_since = waiting_since
        self._in_the_way = {**await aside(self._look_around), **self._sick()}
        for label, reason in self._in_the_way.items():
            if self._told.get(label) != reason:
                log.info("GPU %s is not given to tasks: it %s", label, reason, extra={"action": "gpu_busy"})
        self._told = dict(self._in_the_way)
        self._decide()

    def offers(self, place: int) -> bool:
        return str(place) in self._grants

    def take(self, place: int, waiting: Waiting) -> Slot | None:
        """Lease what was decided; if somebody else was faster, decide anew with what is left."""
        while units := self._grants.get(str(place)):
            leases = self._lease(units)
            if leases is not None:
                return self._slot(tuple(unit.label for unit in units), leases)
        return None

    def adopt(self, claim: Claim) -> Slot:
        return self._slot(claim.devices, (), worker=claim.worker)

    def release(self, slot: Slot) -> None:
        slot.close()
        self._given -= set(slot.devices)
        self._decide()

    def _slot(self, labels: tuple[str, ...], leases: tuple[int, ...], worker: str = "") -> Slot:
        self._given |= set(labels)
        self._decide()
        uuids = {unit.label: unit.uuid for unit in self._layout.units}
        visible = {
            NVIDIA: ",".join(labels),
            CUDA: ",".join(
                uuids.get(label, label) if self._names_by_uuid or ":" in label else label for label in labels
            ),
            ORDER: "PCI_BUS_ID",
        }
        own = f"{self._name}:gpu{','.join(labels).replace(':', '.')}"
        return Slot(worker=worker or own, environment=visible, devices=labels, leases=leases)

    def _lease(self, units: Sequence[Unit]) -> tuple[int, ...] | None:
        taken: list[int] = []
        for unit in units:
            descriptor = self._leases.take(unit.uuid, alone=True)
            if descriptor is None:
                for other in taken:
                    os.close(other)
                self._in_the_way[unit.label] = LEASED
                self._decide()
                return None
            taken.append(descriptor)
        return tuple(taken)

    def _decide(self) -> None:
        now = asyncio.get_running_loop().time()
        requests = [
            Request(wish=wish, waited_seconds=now - since if (since := self._waiting_since.get(place)) else 0.0)
            for place, wish in enumerate(self._wishes)
        ]
        self._grants = grants(self._layout, self._free(), requests, reserve_after_seconds=self._reserve_after)

    def _free(self) -> frozenset[str]:
        labels = {unit.label for unit in self._layout.units}
        return frozenset(labels - self._given - self._in_the_way.keys())

    def _look_around(self) -> dict[str, str]:
        """What is in the way of giving a unit that we have not given, by its label."""
        mine = [unit for unit in self._layout.units if unit.label not in self._given]
        leased = {unit.label: LEASED for unit in mine if not self._leases.is_free(unit.uuid)}
        if not self._spares_strangers:
            return leased
        return strangers_on([unit for unit in mine if unit.label not in leased]) | leased


LEASED = "is leased to another agent"


def strangers_on(units: Sequence[Unit]) -> dict[str, str]:
    """The units on which somebody computes, or which do not answer, by label; none where there is no driver to ask."""
    from agent.gpu.nvml import GpuLost, Nvml, NvmlFailed, library_is_present

    found: dict[str, str] = {}
    if not units or not library_is_present():
        return found
    try:
        with Nvml() as nvml:
            for unit in units:
                try:
                    if computing := nvml.computing(unit.uuid):
                        who = ", ".join(f"{name or 'a process'} ({pid})" for pid, name in computing[:3])
                        found[unit.label] = f"is used by {who}"
                except GpuLost as error:
                    found[unit.label] = f"does not answer: {error}"
    except NvmlFailed as error:
        log.warning("GPUs cannot be looked at: %s", error, extra={"action": "gpu"})
    return found
