"""Which GPUs work together best: the closest group of all, then the closest of what is left, and so on.

A group is as good as its worst pair, then as the number of such pairs, then as its next worse pairs; of equally good
groups the one with the lower indexes comes first. A pair is close by its link, then by sharing a NUMA node. Where no
links are known that leaves NUMA nodes and the order of indexes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from agent.gpu.model import Link
from supervisor_gen.devices import CLOSENESS, Unit

RANKS = {link: rank for rank, link in enumerate(CLOSENESS)}
#: Up to this many candidates every group is looked at (8 of 16 are 12,870); beyond, groups are grown around each unit.
MOST_CANDIDATES = 20_000

Group = tuple[Unit, ...]
#: Pairs of a group from the worst to the best; then the positions of its members.
Score = tuple[list[int], tuple[int, ...]]


def closest_groups(units: Sequence[Unit], size: int, count: int) -> list[Group]:
    """Up to `count` disjoint groups of `size` units, by their lowest index."""
    ordered = sorted(units, key=lambda unit: unit.order)
    if size == 1:
        return [(unit,) for unit in ordered[:count]]
    distances = [[_distance(one, other) for other in ordered] for one in ordered]
    left = list(range(len(ordered)))
    groups: list[tuple[int, ...]] = []
    while len(groups) < count and len(left) >= size:
        best = min(_candidates(left, size, distances), key=lambda members: _score(members, distances))
        groups.append(best)
        left = [position for position in left if position not in best]
    return [tuple(ordered[position] for position in group) for group in sorted(groups)]


def _candidates(left: Sequence[int], size: int, distances: Sequence[Sequence[int]]) -> Iterable[tuple[int, ...]]:
    if math.comb(len(left), size) <= MOST_CANDIDATES:
        return combinations(left, size)
    return [_grown(seed, left, size, distances) for seed in left]


def _grown(seed: int, left: Sequence[int], size: int, distances: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The group around `seed` that always takes the closest unit next."""
    group: tuple[int, ...] = (seed,)
    while len(group) < size:
        outside = (position for position in left if position not in group)
        group = min(((*group, position) for position in outside), key=lambda members: _score(members, distances))
    return tuple(sorted(group))


def _score(members: tuple[int, ...], distances: Sequence[Sequence[int]]) -> Score:
    pairs = sorted((distances[one][other] for one, other in combinations(members, 2)), reverse=True)
    return pairs, tuple(sorted(members))


def _distance(one: Unit, other: Unit) -> int:
    """0 for instances of one GPU, then by link, then by NUMA node."""
    if one.gpu.uuid == other.gpu.uuid:
        return 0
    link = one.gpu.peers.get(other.gpu.uuid) or other.gpu.peers.get(one.gpu.uuid) or _unknown(one, other)
    return 1 + 2 * RANKS[link] + (one.gpu.numa != other.gpu.numa)


def _unknown(one: Unit, other: Unit) -> Link:
    """The link of a pair that nobody has told us about; two lost GPUs are thought to be as close as any."""
    if one.lost and other.lost:
        return min(one.gpu.peers.values(), key=RANKS.__getitem__, default=Link.SYSTEM)
    return Link.SYSTEM
