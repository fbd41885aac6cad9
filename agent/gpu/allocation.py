"""Which GPUs the next task gets, where one agent shares its GPUs out among queues of different wishes.

Everything here is a pure function of what is free and what is wanted, so that a day can be simulated in a second.

A task that is spread over the host computes more slowly, and one that breaks into a whole island makes the next one
spread. So units are chosen by how close they are, and of equally close ones by what they leave behind. An island is
what belongs together within a NUMA node: the instances of one GPU in MIG mode, or the GPUs that the closest kind of
link of this node joins (all of them where the links are alike or not known).

Small tasks fit more often than large ones and could keep them waiting for ever. With a reservation the request that has
waited longest goes first: what it needs is kept for it, and as long as it does not fit, that is everything free.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from agent.gpu.model import Gpu, Gpus, Link, MigInstance

#: Up to this many groups each of them is looked at (8 of 16 GPUs are 12,870); beyond, one is grown around every unit.
MOST_GROUPS = 20_000
#: Answers that are remembered; all that there can be on 8 GPUs are 2,048.
MOST_ANSWERS = 4096

_RANKS = {link: rank for rank, link in enumerate(Link)}

Links = Mapping[frozenset[str], Link]
#: Positions in `Layout.units`, ascending.
Group = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a task can get: a GPU ("3"), or an instance of one in MIG mode ("3:1" is instance 1 of GPU 3)."""

    label: str
    uuid: str
    gpu: int
    numa: int | None

    @property
    def is_instance(self) -> bool:
        return ":" in self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many units every task of a queue takes."""

    queue: str
    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"queue {self.queue}: {self.least} to {self.most} units cannot be wished for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A queue that would have its next task started, and for how long that one has been seen waiting (0: none has)."""

    wish: Wish
    waited_seconds: float = 0.0


class Layout:
    """The units of an agent and how close they are to each other; `links` is by the UUIDs of two units."""

    def __init__(self, units: Sequence[Unit], links: Links) -> None:
        self.units = tuple(units)
        self.links = dict(links)
        self._positions = {unit.label: position for position, unit in enumerate(self.units)}
        twice = [label for label, number in Counter(unit.label for unit in self.units).items() if number > 1]
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        self._costs = [[_cost(one, other, links) for other in self.units] for one in self.units]
        self._islands = _islands(self.units, links)
        self._remembered = lru_cache(MOST_ANSWERS)(self._best)

    @classmethod
    def of(cls, inventory: Gpus, labels: Sequence[str]) -> Layout:
        """The units that an agent was given: indexes, `gpu:instance` and UUIDs.

        An index or UUID of a GPU in MIG mode stands for all its instances. Raises ValueError for what is not there.
        """
        found = [pair for label in labels for pair in _named(label, inventory)]
        units = [_unit(gpu, instance) for gpu, instance in found]
        pairs = combinations(zip(units, (gpu for gpu, _ in found), strict=True), 2)
        links = {
            frozenset((one.uuid, other.uuid)): link
            for (one, gpu), (other, peer) in pairs
            if (link := gpu.peers.get(peer.uuid) or peer.peers.get(gpu.uuid))
        }
        return cls(units, links)

    @classmethod
    def plain(cls, labels: Sequence[str]) -> Layout:
        """The units of a host that nothing is known of."""
        return cls([_unknown_unit(label, position) for position, label in enumerate(labels)], {})

    def choose(self, free: Collection[str], count: int) -> tuple[Unit, ...]:
        """The best `count` of the free units, by their labels; none at all if there are not so many."""
        mask = 0
        for label in free:
            mask |= 1 << self._positions[label]
        if not 1 <= count <= mask.bit_count():
            return ()
        return self._remembered(mask, count)

    def _best(self, mask: int, count: int) -> tuple[Unit, ...]:
        free = tuple(position for position in range(len(self.units)) if mask >> position & 1)
        exact = math.comb(len(free), count) <= MOST_GROUPS
        groups = list(combinations(free, count)) if exact else sorted({self._grown(seed, free, count) for seed in free})
        for criterion in (self._islands_used, self._distance, lambda group: self._broken(group, free)):
            groups = _least(groups, criterion)
        return tuple(self.units[position] for position in groups[0])

    def _islands_used(self, group: Group) -> int:
        return len({self._islands[position] for position in group})

    def _distance(self, group: Group) -> tuple[int, int]:
        """The worst pair, then all pairs."""
        costs = [self._costs[one][other] for one, other in combinations(group, 2)]
        return max(costs, default=0), sum(costs)

    def _broken(self, group: Group, free: Group) -> tuple[list[int], list[int]]:
        """How little stays free of the largest islands, then of the largest NUMA nodes."""
        left = [position for position in free if position not in group]
        islands = Counter(self._islands[position] for position in left)
        nodes = Counter(self.units[position].numa for position in left)
        return sorted(-count for count in islands.values()), sorted(-count for count in nodes.values())

    def _grown(self, seed: int, free: Group, count: int) -> Group:
        """The group around `seed` that stays in an island while it can, and then goes to the nearest that fits best."""
        sizes = Counter(self._islands[position] for position in free)
        group, used = [seed], {self._islands[seed]}
        costs = list(self._costs[seed])
        outside = set(free) - {seed}

        def worth(position: int) -> tuple[bool, int, int, int, int]:
            size = sizes[self._islands[position]]
            missing = max(0, count - len(group) - size)
            return self._islands[position] not in used, costs[position], missing, size, position

        while len(group) < count:
            nearest = min(outside, key=worth)
            outside.remove(nearest)
            group.append(nearest)
            used.add(self._islands[nearest])
            costs = [cost + more for cost, more in zip(costs, self._costs[nearest], strict=True)]
        return tuple(sorted(group))


def grants(
    layout: Layout,
    free: Collection[str],
    requests: Sequence[Request],
    *,
    reserve_after_seconds: float | None = None,
) -> dict[str, tuple[Unit, ...]]:
    """The units that the next task of each queue would get if it were the one to be started now, in order of priority.

    A queue that has to wait is absent. Two queues may be told the same units: after a start everything is asked anew.
    """
    first = first_served(layout, requests, reserve_after_seconds=reserve_after_seconds)
    everything = frozenset(free)
    rest = everything - _kept_for(first, layout, everything) if first else everything
    granted = {
        request.wish.queue: _granted(request.wish, layout, everything if request is first else rest)
        for request in requests
    }
    return {queue: units for queue, units in granted.items() if units}


def first_served(layout: Layout, requests: Sequence[Request], *, reserve_after_seconds: float | None) -> Request | None:
    """The request that others have to make room for: of those that wait for too long, the one that has waited longest.

    One that all units together are too few for is never it. It stays the one when its units are free at last, for
    those would otherwise go to whoever asks first.
    """
    if reserve_after_seconds is None:
        return None
    overdue = [
        request
        for request in requests
        if request.waited_seconds > reserve_after_seconds and request.wish.least <= len(layout.units)
    ]
    return max(overdue, key=lambda request: request.waited_seconds, default=None)


def _kept_for(request: Request, layout: Layout, free: frozenset[str]) -> frozenset[str]:
    """The free units among those that are kept: all of them as long as they are too few.

    So every unit that becomes free counts, whichever it is, and the request waits for no task that starts later.
    """
    return frozenset(unit.label for unit in layout.choose(free, request.wish.least)) or free


def _granted(wish: Wish, layout: Layout, usable: frozenset[str]) -> tuple[Unit, ...]:
    if len(usable) < wish.least:
        return ()
    return layout.choose(usable, min(wish.most, len(usable)))


def _cost(one: Unit, other: Unit, links: Links) -> int:
    """How far apart two units are: 0 within one GPU, then by link, then by NUMA node."""
    if one.is_instance and other.is_instance and one.gpu == other.gpu:
        return 0
    link = links.get(frozenset((one.uuid, other.uuid)), Link.SYSTEM)
    return 1 + 2 * _RANKS[link] + (one.numa != other.numa)


def _islands(units: Sequence[Unit], links: Links) -> list[int]:
    """For each unit the position of the first one of its island."""
    closest = {numa: _closest_link(units, links, numa) for numa in {unit.numa for unit in units}}
    islands = list(range(len(units)))
    for one, other in combinations(range(len(units)), 2):
        if islands[one] != islands[other] and _is_joined(units[one], units[other], links, closest):
            first, second = sorted((islands[one], islands[other]))
            islands = [first if island == second else island for island in islands]
    return islands


def _closest_link(units: Sequence[Unit], links: Links, numa: int | None) -> Link | None:
    """The closest kind of link among the whole GPUs of a NUMA node; None where none is known."""
    whole = [unit.uuid for unit in units if unit.numa == numa and not unit.is_instance]
    kinds = [links[pair] for pair in map(frozenset, combinations(whole, 2)) if pair in links]
    return min(kinds, key=_RANKS.__getitem__, default=None)


def _is_joined(one: Unit, other: Unit, links: Links, closest: Mapping[int | None, Link | None]) -> bool:
    """Whether two units are of one island because of each other."""
    if one.is_instance or other.is_instance:
        return one.is_instance and other.is_instance and one.gpu == other.gpu
    return one.numa == other.numa and links.get(frozenset((one.uuid, other.uuid))) == closest[one.numa]


def _named(label: str, inventory: Gpus) -> list[tuple[Gpu, MigInstance | None]]:
    """What a label stands for."""
    for gpu in inventory.gpus:
        if label in (str(gpu.index), gpu.uuid):
            return _parts(gpu, label)
        for instance in gpu.mig:
            if label in (f"{gpu.index}:{instance.index}", instance.uuid, f"MIG-{gpu.uuid}/{instance.gi}/{instance.ci}"):
                return [(gpu, instance)]
    has = ", ".join(_unit(*part).label for gpu in inventory.gpus for part in _parts(gpu, "")) or "none that answers"
    raise ValueError(f"this host has no GPU or MIG instance {label}; it has: {has}")


def _parts(gpu: Gpu, label: str) -> list[tuple[Gpu, MigInstance | None]]:
    if not gpu.mig_enabled and not gpu.mig:
        return [(gpu, None)]
    if label and not gpu.mig:
        raise ValueError(f"GPU {label} is in MIG mode and has no instances")
    return [(gpu, instance) for instance in gpu.mig]


def _unit(gpu: Gpu, instance: MigInstance | None) -> Unit:
    if instance is None:
        return Unit(label=str(gpu.index), uuid=gpu.uuid, gpu=gpu.index, numa=gpu.numa)
    return Unit(label=f"{gpu.index}:{instance.index}", uuid=instance.uuid, gpu=gpu.index, numa=gpu.numa)


def _unknown_unit(label: str, position: int) -> Unit:
    """Of a UUID alone nobody knows the GPU's index; it gets a negative one of its own."""
    index = label.partition(":")[0]
    return Unit(label=label, uuid=label, gpu=int(index) if index.isdecimal() else -1 - position, numa=None)


def _least(groups: Sequence[Group], criterion: Callable[[Group], Any]) -> list[Group]:
    """The groups that are best by one criterion, in their order."""
    judged = [(criterion(group), group) for group in groups]
    best = min(key for key, _ in judged)
    return [group for key, group in judged if key == best]
