"""What can be shared out on one host, and what a selector picks from it.

A unit is a GPU, a MIG instance, or the place of a GPU that is lost. Of a lost GPU only the index is known; it is taken
for a GPU like the nearest ones, so that groups are formed as if it were there and its neighbours keep their agents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from agent.gpu.model import Gpu, Gpus, Link, LostGpu, MigInstance
from supervisor_gen.model import Device, Selector

CLOSENESS = tuple(Link)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A GPU, one MIG instance of it, or a stand-in for a GPU that is lost (`lost` says why)."""

    gpu: Gpu
    instance: MigInstance | None = None
    lost: str = ""

    @property
    def key(self) -> str:
        """What identifies it on this host; the UUID where there is one."""
        return self.instance.uuid if self.instance else self.gpu.uuid

    @property
    def label(self) -> str:
        return f"{self.gpu.index}:{self.instance.index}" if self.instance else str(self.gpu.index)

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands among the units of the host."""
        return self.gpu.index, self.instance.index if self.instance else -1


def units_of(inventory: Gpus) -> tuple[Unit, ...]:
    """Everything that can be shared out, by index. A GPU in MIG mode stands aside for its instances."""
    present = [unit for gpu in inventory.gpus for unit in _units_of_gpu(gpu)]
    missing = [Unit(gpu=stand_in_for(lost, inventory), lost=lost.reason or "lost") for lost in inventory.lost]
    return tuple(sorted([*present, *missing], key=lambda unit: unit.order))


def is_selected(unit: Unit, selector: Selector) -> bool:
    """Whether `selector` picks `unit`.

    Of a lost GPU nobody knows the instances, so none are selected. Where all GPUs are lost nothing is known of any, and
    every other selector picks them.
    """
    gpu, instance = unit.gpu, unit.instance
    if selector.indexes and gpu.index not in selector.indexes:
        return False
    if unit.lost and (selector.mig or not gpu.name):
        return not selector.mig
    if bool(selector.mig) != is_sliced(gpu):
        return False
    memory = instance.memory_total_mib if instance else gpu.memory_total_mib
    return (
        (instance is None or any(fnmatchcase(instance.profile.lower(), mig.lower()) for mig in selector.mig))
        and (not selector.models or any(_is_model(gpu.name, model) for model in selector.models))
        and (selector.least_memory_mib is None or selector.least_memory_mib <= memory)
        and (selector.most_memory_mib is None or memory <= selector.most_memory_mib)
    )


def is_sliced(gpu: Gpu) -> bool:
    """Whether `gpu` is in MIG mode: nothing can use it as a whole then."""
    return gpu.mig_enabled or bool(gpu.mig)


def device_of(unit: Unit) -> Device:
    """The device that an agent is given; not for a lost GPU."""
    gpu, instance = unit.gpu, unit.instance
    return Device(
        uuid=unit.key,
        label=unit.label,
        model=f"{gpu.name} MIG {instance.profile}" if instance else gpu.name,
        memory_mib=instance.memory_total_mib if instance else gpu.memory_total_mib,
        numa=gpu.numa,
        cpus=gpu.cpus,
        nodes=(gpu.node, *instance.nodes) if instance else (gpu.node,),
    )


def words_for(units: Iterable[Unit]) -> str:
    """`GPU 3`, `GPUs 0, 1 and 2`, `MIG instance 0:1`."""
    ordered = sorted(units, key=lambda unit: unit.order)
    noun = "MIG instance" if any(unit.instance for unit in ordered) else "GPU"
    return enumerated(noun, [unit.label for unit in ordered])


def enumerated(noun: str, labels: Sequence[str]) -> str:
    """`GPU 3` for one, `GPUs 0, 1 and 2` for several."""
    if len(labels) == 1:
        return f"{noun} {labels[0]}"
    return f"{noun}s {', '.join(labels[:-1])} and {labels[-1]}"


def stand_in_for(lost: LostGpu, inventory: Gpus) -> Gpu:
    """The GPU that a lost one is taken for: like the next below or above, whichever kind there is less of.

    Hosts are built evenly: where four GPUs of one kind and three of another answer, the lost one is of the other.
    """
    uuid = f"lost:{lost.index}"
    if not inventory.gpus:
        return Gpu(index=lost.index, uuid=uuid, name="", bus_id="", minor=lost.index, memory_total_mib=0)
    kinds = Counter(_kind(gpu) for gpu in inventory.gpus)
    beside = [
        *sorted(gpu.index for gpu in inventory.gpus if gpu.index < lost.index)[-1:],
        *sorted(gpu.index for gpu in inventory.gpus if gpu.index > lost.index)[:1],
    ]
    neighbours = [gpu for gpu in inventory.gpus if gpu.index in beside]
    twin = min(neighbours, key=lambda gpu: (kinds[_kind(gpu)], abs(gpu.index - lost.index), gpu.index))
    return replace(twin, index=lost.index, uuid=uuid, minor=lost.index, peers=_guessed_links(lost, inventory))


def _kind(gpu: Gpu) -> tuple[object, ...]:
    return gpu.name, gpu.numa, is_sliced(gpu)


def _guessed_links(lost: LostGpu, inventory: Gpus) -> dict[str, Link]:
    """How the others reach a lost GPU: by the links that each of them lacks, compared with the best connected.

    Where none is lacking they are all alike. Of several lost GPUs the nearest by index is thought to be reached best.
    """
    reached = {gpu.uuid: Counter(gpu.peers.values()) for gpu in inventory.gpus}
    most = {link: max((links[link] for links in reached.values()), default=0) for link in CLOSENESS}
    guessed = {}
    for gpu in inventory.gpus:
        links = reached[gpu.uuid]
        lacking = [link for link in CLOSENESS for _ in range(most[link] - links[link])]
        usual = sorted(links, key=lambda link: (-links[link], CLOSENESS.index(link)))[:1]
        nearest = sorted(inventory.lost, key=lambda other: (abs(other.index - gpu.index), other.index))
        guesses = [*lacking, *usual * len(nearest)]
        if guesses:
            guessed[gpu.uuid] = guesses[min(nearest.index(lost), len(guesses) - 1)]
    return guessed


def _units_of_gpu(gpu: Gpu) -> list[Unit]:
    if is_sliced(gpu):
        return [Unit(gpu=gpu, instance=instance) for instance in gpu.mig]
    return [Unit(gpu=gpu)]


def _is_model(name: str, pattern: str) -> bool:
    """Whether a shell pattern fits the whole of `name`, or a plain word is part of it."""
    name, pattern = name.lower(), pattern.lower()
    return fnmatchcase(name, pattern) if any(sign in pattern for sign in "*?[") else pattern in name
