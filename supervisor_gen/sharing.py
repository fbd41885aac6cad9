"""Sharing the GPUs of one host out among the entries of a topology, in file order.

A GPU goes to one agent at most. Whoever had GPUs before keeps them as long as its entry still selects them; a lost GPU
keeps its place, so that nobody else moves up because of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set

from agent.gpu.model import Gpus
from supervisor_gen.devices import Unit, enumerated, is_selected, is_sliced, units_of, words_for
from supervisor_gen.grouping import Group, closest_groups
from supervisor_gen.model import Entry, Place, Selector
from supervisor_gen.naming import Previous, Share, family_of, share_family

#: Instances that one GPU can be cut into, for a lost GPU of which nobody knows how many it has.
MOST_MIG_INSTANCES = 7


class Sharing:
    """Who gets what. `share_out` handles one entry; afterwards `shares` and `problems` tell the result."""

    def __init__(self, inventory: Gpus, entries: Sequence[Entry], previous: Previous) -> None:
        self.units = units_of(inventory)
        self.shares: list[Share] = []
        self.problems: list[str] = []
        self._lost_indexes = [lost.index for lost in inventory.lost]
        self._sliced = {gpu.index for gpu in inventory.gpus if is_sliced(gpu)}
        self._entries = entries
        self._waiting = [*entries]
        self._previous = previous
        self._takers: dict[str, Entry] = {}
        self._leftovers: list[tuple[Entry, Group]] = []

    def share_out(self, entry: Entry) -> bool:
        """Give `entry` its devices, or note why it cannot have them. Whether it selects anything, so far as we know."""
        self._waiting = [other for other in self._waiting if other is not entry]
        if entry.gpus == 0:
            self.shares += [Share(entry=entry)] * (1 if entry.count is None else entry.count)
            return True
        selected = [unit for unit in self.units if is_selected(unit, entry.selector)]
        free = [unit for unit in selected if unit.key not in self._takers]
        problems = list(self._refusals(entry, selected, free))
        if problems:
            self.problems += problems
        else:
            self._take(entry, free)
        return bool(selected) or self._places_in_doubt(entry, selected) > 0

    def leftovers(self) -> list[tuple[Entry, Group]]:
        """Whoever was selected for a group that never became full, and was taken by nobody else."""
        remaining = ((entry, self._untaken(units)) for entry, units in self._leftovers)
        return [(entry, units) for entry, units in remaining if units]

    def _refusals(self, entry: Entry, selected: Sequence[Unit], free: Sequence[Unit]) -> Iterator[str]:
        """Why `entry` cannot have what it asks for."""
        may_miss = entry.optional or entry.rest
        doubt = self._places_in_doubt(entry, selected)
        absent = [] if may_miss else [*self._absent(entry.selector)]
        yield from (f"{entry.place_of('gpu.index')}: {reason}" for reason in absent)
        if taken := self._asked_for_twice(entry, selected):
            yield taken
        elif not selected and not absent and not may_miss and not doubt:
            yield f"{entry.place_of('gpu')}: {self._nothing_matches(entry.selector)}"
        elif not absent and not entry.rest and (selected or not may_miss) and _wanted(entry) > len(free) + doubt:
            yield _too_many(entry, selected, free)

    def _take(self, entry: Entry, free: Sequence[Unit]) -> None:
        groups = self._groups(entry, free) if entry.gpus > 0 else [tuple(free)] if free else []
        self.shares += [Share(entry=entry, units=group) for group in groups]
        self._takers.update((unit.key, entry) for group in groups for unit in group)
        if entry.count is None:
            self._leftovers.append((entry, self._untaken(free)))

    def _groups(self, entry: Entry, free: Sequence[Unit]) -> list[Group]:
        """The groups of the plan before and, up to the number that is wanted, the closest of what is left."""
        possible = len(free) // entry.gpus
        wanted = possible if entry.count is None else min(entry.count, possible)
        if entry.count is not None and self._is_of_shared_name(entry):
            return closest_groups(free, entry.gpus, wanted)
        kept = self._kept(entry, free)
        keys = {unit.key for group in kept for unit in group}
        pool = [unit for unit in free if unit.key not in keys]
        missing = wanted - len(kept)
        if entry.count is not None:
            pool = self._sparing_others(pool, missing * entry.gpus)
        groups = [*kept, *closest_groups(pool, entry.gpus, missing)]
        return sorted(groups, key=lambda group: group[0].order)

    def _kept(self, entry: Entry, free: Sequence[Unit]) -> list[Group]:
        """The entry's groups of the plan before of which every member is still to be had."""
        family = family_of(entry)
        at_hand = {unit.key: unit for unit in free}
        groups = []
        for name in sorted(self._previous):
            keys = {*self._previous[name]}
            if len(keys) == entry.gpus and at_hand.keys() >= keys and family.fullmatch(name):
                groups.append(tuple(sorted((at_hand.pop(key) for key in keys), key=lambda unit: unit.order)))
        return sorted(groups, key=lambda group: group[0].order)[: entry.count]

    def _sparing_others(self, pool: list[Unit], number: int) -> list[Unit]:
        """The pool without what entries further down will keep, if it then still has `number` units."""
        claimed = {
            unit.key
            for other in self._waiting
            if other.gpus > 0 and (other.count is None or not self._is_of_shared_name(other))
            for group in self._kept(other, [unit for unit in pool if is_selected(unit, other.selector)])
            for unit in group
        }
        unclaimed = [unit for unit in pool if unit.key not in claimed]
        return unclaimed if len(unclaimed) >= number else pool

    def _is_of_shared_name(self, entry: Entry) -> bool:
        """Whether names of the plan before do not tell what was this entry's; then what it takes ignores them."""
        return any(share_family(entry, other) for other in self._entries if other.gpus and other is not entry)

    def _untaken(self, units: Sequence[Unit]) -> Group:
        return tuple(unit for unit in units if unit.key not in self._takers and not unit.lost)

    def _places_in_doubt(self, entry: Entry, selected: Sequence[Unit]) -> int:
        """How many more units lost GPUs might be, for all we know; nothing is refused for the want of them."""
        likely = {unit.gpu.index for unit in selected if unit.lost}
        wanted = entry.selector.indexes
        doubtful = [index for index in self._lost_indexes if index not in likely and (not wanted or index in wanted)]
        return len(doubtful) * (MOST_MIG_INSTANCES if entry.selector.mig else 1)

    def _absent(self, selector: Selector) -> Iterator[str]:
        """Which of the indexes that `selector` names cannot be had, and why."""
        whole = {unit.gpu.index for unit in self.units if not unit.instance} - self._sliced
        for reason, indexes in (
            ("not on this host", [index for index in selector.indexes if index not in whole | self._sliced]),
            ("in MIG mode; `gpu.mig` selects its instances", _among(selector, self._sliced, not selector.mig)),
            ("not in MIG mode", _among(selector, whole - set(self._lost_indexes), bool(selector.mig))),
        ):
            if indexes:
                yield f"{enumerated('GPU', [str(index) for index in indexes])} {reason}"

    def _nothing_matches(self, selector: Selector) -> str:
        """What was looked for and what there is."""
        sought = _words_for_selector(selector)
        kinds = Counter(
            f"{unit.gpu.name} MIG {unit.instance.profile}" if unit.instance else unit.gpu.name
            for unit in self.units
            if not unit.lost
        )
        there = ", ".join(f"{number} x {kind}" for kind, number in sorted(kinds.items()))
        return f"no GPU of this host matches{sought}; it has {there or 'none'}"

    def _asked_for_twice(self, entry: Entry, selected: Sequence[Unit]) -> str:
        """For an entry that insists on GPUs, by naming or by taking all of them: which of them are gone, and where."""
        if entry.rest or (entry.count is not None and not entry.selector.indexes):
            return ""
        owners: dict[str, list[Unit]] = {}
        for unit in selected:
            if unit.key in self._takers and not unit.lost:
                owners.setdefault(str(_place_of_wish(self._takers[unit.key])), []).append(unit)
        gone = "; ".join(f"{words_for(units)} asked for twice, first by {place}" for place, units in owners.items())
        return f"{_place_of_wish(entry)}: {gone}" if gone else ""


def _among(selector: Selector, indexes: Set[int], matters: bool) -> list[int]:
    return [index for index in selector.indexes if matters and index in indexes]


def _wanted(entry: Entry) -> int:
    """The least number of devices that makes sense of `entry`."""
    return max(entry.gpus, 1) * (1 if entry.count is None or entry.gpus < 0 else entry.count)


def _too_many(entry: Entry, selected: Sequence[Unit], free: Sequence[Unit]) -> str:
    noun = "MIG instances" if entry.selector.mig else "GPUs"
    place = entry.place_of("count" if "count" in entry.places else "gpus")
    agents = 1 if entry.count is None else entry.count
    return (
        f"{place}: more {noun} than there are: {agents} x {max(entry.gpus, 1)} wanted, "
        f"{len(selected)} selected, {len(free)} of them free"
    )


def _place_of_wish(entry: Entry) -> Place:
    """The line that names GPUs, as narrowly as there is one."""
    keys = ("gpu.index", "gpu.mig", "gpu.model", "gpu.memory", "gpu")
    return next((entry.places[key] for key in keys if key in entry.places), entry.place)


def _words_for_selector(selector: Selector) -> str:
    least, most = selector.least_memory_mib, selector.most_memory_mib
    wishes: Mapping[str, str] = {
        "model": " or ".join(selector.models),
        "mig": " or ".join(selector.mig),
        "index": ", ".join(str(index) for index in selector.indexes),
        "at least MiB": "" if least is None else str(least),
        "at most MiB": "" if most is None else str(most),
    }
    return "".join(f" {key} {wish}" for key, wish in wishes.items() if wish)
