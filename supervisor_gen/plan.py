"""From what a host has and what a topology declares to the agents that the host should have. Pure.

    entries about the host ──share out──▶ shares ──name──▶ agents

Every problem of a host is found before any is reported. A plan made with the plan before as `previous` changes as
little as it can, and nothing at all where nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.errors import GpuSpecError
from agent.gpu.model import Gpus, Inventory, LostGpu, Unknown
from supervisor_gen.devices import Unit, device_of, enumerated, is_sliced, words_for
from supervisor_gen.hosts import HostPatterns
from supervisor_gen.model import Entry, HostPlan, PlannedAgent, Topology
from supervisor_gen.naming import Previous, Share, base_of, names_for, natural_order
from supervisor_gen.sharing import Sharing

NOTHING_BEFORE: Previous = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A plan and what is wrong with it.

    `about` are the positions of the entries that are about the host, `fruitless` those that certainly select nothing.
    """

    plan: HostPlan
    problems: tuple[str, ...] = ()
    about: frozenset[int] = frozenset()
    fruitless: frozenset[int] = frozenset()


def plan_host(
    host: str, inventory: Inventory, topology: Topology, *, previous: Mapping[str, tuple[str, ...]] = NOTHING_BEFORE
) -> HostPlan:
    """The agents of `host`. Raises GpuSpecError that says everything that is wrong, a line each.

    `previous` are the names of the agents that there are, with the UUIDs of their devices in order.
    """
    draft = draft_for(host, inventory, topology, HostPatterns(topology), previous)
    if draft.problems:
        raise GpuSpecError("\n".join(draft.problems))
    return draft.plan


def draft_for(
    host: str,
    inventory: Inventory,
    topology: Topology,
    patterns: HostPatterns,
    previous: Previous = NOTHING_BEFORE,
) -> Draft:
    """The plan of `host` together with its problems."""
    about = patterns.about(host)
    entries = [topology.entries[position] for position in about]
    if topology.entries and not entries:
        return Draft(plan=HostPlan(host=host), problems=(f"{topology.file}: no entry is about the host {host}",))
    unknown = inventory.reason if isinstance(inventory, Unknown) else ""
    gpus = inventory if isinstance(inventory, Gpus) else Gpus(gpus=())
    sharing = Sharing(gpus, entries, previous)
    fruitless = [
        position
        for position, entry in zip(about, entries, strict=True)
        if not (unknown and entry.gpus) and not sharing.share_out(entry)
    ]
    names, misnamed = names_for(sharing.shares, previous, entries)
    named = [*zip(names, sharing.shares, strict=True)]
    plan = HostPlan(
        host=host,
        agents=_agents(named, previous),
        warnings=tuple(_warnings(gpus, entries, sharing, named)),
        unknown=unknown,
        idle=tuple(device_of(unit) for unit in _idle(sharing, named)),
    )
    return Draft(
        plan=plan,
        problems=(*sharing.problems, *misnamed),
        about=frozenset(about),
        fruitless=frozenset(fruitless),
    )


def _agents(named: Sequence[tuple[str, Share]], previous: Previous) -> tuple[PlannedAgent, ...]:
    agents = (
        PlannedAgent(
            name=name,
            place=share.entry.place,
            settings=share.entry.settings,
            devices=tuple(device_of(unit) for unit in _in_order(units, previous.get(name, ()))),
        )
        for name, share in named
        if (units := _answering(share)) or not share.units
    )
    return tuple(sorted(agents, key=lambda agent: natural_order(agent.name)))


def _answering(share: Share) -> tuple[Unit, ...]:
    """What the agent of a share is given: a number of GPUs in full or not at all, "all" without those that are lost."""
    present = tuple(unit for unit in share.units if not unit.lost)
    return present if len(present) == len(share.units) or share.entry.gpus < 0 else ()


def _in_order(units: Sequence[Unit], before: Sequence[str]) -> Sequence[Unit]:
    """By index; the same devices as before stay in the order that the agent was started with."""
    by_key = {unit.key: unit for unit in units}
    if sorted(by_key) == sorted(before):
        return [by_key[key] for key in before]
    return sorted(units, key=lambda unit: unit.order)


def _idle(sharing: Sharing, named: Sequence[tuple[str, Share]]) -> list[Unit]:
    used = {unit.key for _, share in named for unit in _answering(share)}
    return [unit for unit in sharing.units if unit.key not in used and not unit.lost]


def _warnings(
    gpus: Gpus, entries: Sequence[Entry], sharing: Sharing, named: Sequence[tuple[str, Share]]
) -> Iterator[str]:
    """What a person should know: of lost GPUs, of idle ones, of fences with a hole."""
    explained = {unit.key for _, share in named for unit in share.units}
    for lost in sorted(gpus.lost, key=lambda lost: lost.index):
        verb = "may not be used" if lost.refused else "does not answer"
        yield f"GPU {lost.index} {verb} ({lost.reason}){_consequence(lost, sharing, named)}"
    for entry, units in sharing.leftovers():
        fresh = [unit for unit in units if unit.key not in explained]
        explained |= {unit.key for unit in fresh}
        if fresh:
            yield f"{entry.place}: {words_for(fresh)} left over: {base_of(entry)} takes {entry.gpus} at a time"
    if rest := [unit for unit in _idle(sharing, named) if unit.key not in explained and entries]:
        yield f"{words_for(rest)} idle: no entry takes {'it' if len(rest) == 1 else 'them'}"
    if empty := [str(gpu.index) for gpu in gpus.gpus if is_sliced(gpu) and not gpu.mig]:
        yield f"{enumerated('GPU', empty)} idle: in MIG mode, and without an instance"
    yield from _unfenced(named)


def _consequence(lost: LostGpu, sharing: Sharing, named: Sequence[tuple[str, Share]]) -> str:
    """What a lost GPU means for the agents."""
    for name, share in named:
        if not any(unit.lost and unit.gpu.index == lost.index for unit in share.units):
            continue
        present = [unit for unit in share.units if not unit.lost]
        if not present:
            return f": no agent {name}"
        if share.entry.gpus < 0:
            return f": agent {name} does without it"
        return f": no agent {name}, and {words_for(present)} idle"
    sliced = any(unit.lost and unit.gpu.index == lost.index and is_sliced(unit.gpu) for unit in sharing.units)
    return ": no agents for its MIG instances" if sliced else ""


def _unfenced(named: Sequence[tuple[str, Share]]) -> Iterator[str]:
    """MIG instances of whose device nodes nothing is known: whoever may open the GPU can open them all."""
    holes: dict[int, list[tuple[str, Unit]]] = {}
    for name, share in named:
        for unit in _answering(share):
            if unit.instance and not unit.instance.nodes:
                holes.setdefault(unit.gpu.index, []).append((name, unit))
    for index, found in sorted(holes.items()):
        names = sorted({name for name, _ in found}, key=natural_order)
        yield (
            f"{words_for(unit for _, unit in found)} without known device nodes: "
            f"{enumerated('agent', names)} cannot be fenced from the other instances of GPU {index}"
        )
