"""Names of agents, which stay while other GPUs come and go.

    gpu3  gpu0mig1       no name declared: after the GPU, or after the MIG instance
    train3  train0mig1   a name, one GPU each
    quad0  quad1         a name, several GPUs each (or none): counted
    any                  a name for the one agent that the declaration can make

A name goes to whoever had it before with exactly these devices; then to a GPU with that very index; then the lowest
free number is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from supervisor_gen.devices import Unit
from supervisor_gen.model import Entry

UNNAMED = "gpu"
#: A name is part of the name of a slice, where a dash would make a level of its own.
NAME = re.compile(r"[a-z][a-z0-9_.]{0,47}")

Previous = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one agent of an entry gets, before it has a name."""

    entry: Entry
    units: tuple[Unit, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(unit.key for unit in self.units)


def base_of(entry: Entry) -> str:
    """What the names of the entry's agents begin with."""
    return entry.name or UNNAMED


def is_single(entry: Entry) -> bool:
    """Whether the entry can only make one agent, which then bears the plain name."""
    return bool(entry.name) and (entry.gpus < 0 or entry.count == 1 or (entry.gpus == 0 and entry.count is None))


def family_of(entry: Entry) -> re.Pattern[str]:
    """The names that agents of the entry may have."""
    base = re.escape(base_of(entry))
    if is_single(entry):
        return re.compile(base)
    return re.compile(rf"{base}\d+mig\d+" if entry.gpus == 1 and entry.selector.mig else rf"{base}\d+")


def share_family(one: Entry, other: Entry) -> bool:
    """Whether a name alone may not tell which of the two entries it is of ("gpu12": gpu and 12, gpu1 and 2)."""
    return base_of(one).rstrip("0123456789") == base_of(other).rstrip("0123456789")


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts gpu2 before gpu10."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return tuple((text, int(number) if number else -1) for text, number in parts)


def names_for(
    shares: Sequence[Share], previous: Previous, entries: Iterable[Entry] = ()
) -> tuple[list[str], list[str]]:
    """The name of each share, and what is wrong with the declared names.

    Plain names of `entries` are theirs, also while they have no agent: else one would be renamed for them later.
    """
    names: dict[int, str] = {}
    problems = list(_give_fixed(shares, names))
    plain = {entry.name for entry in entries if is_single(entry)}
    _give_counted(shares, names, plain, lambda share: not share.units)
    _give_kept(shares, names, plain, previous)
    _give_own(shares, names, plain)
    _give_counted(shares, names, plain, lambda share: True)
    problems += [
        f"{shares[position].entry.place_of('name')}: {name} is no name for an agent: it has to be 1 to 48 lower-case "
        "letters, digits, dots and underscores and to begin with a letter"
        for position, name in sorted(names.items())
        if not NAME.fullmatch(name)
    ]
    return [names[position] for position in range(len(shares))], problems


def _give_fixed(shares: Sequence[Share], names: dict[int, str]) -> Iterator[str]:
    """Plain names; says which are declared twice."""
    owners: dict[str, Entry] = {}
    for position, share in enumerate(shares):
        if not is_single(share.entry):
            continue
        name = names[position] = share.entry.name
        if name in owners:
            yield f"{share.entry.place_of('name')}: {name} is also the name of {owners[name].place_of('name')}"
        owners.setdefault(name, share.entry)


def _give_kept(shares: Sequence[Share], names: dict[int, str], plain: set[str], previous: Previous) -> None:
    """Who had a name of its entry keeps it."""
    if not previous:
        return
    had: dict[frozenset[str], list[str]] = {}
    for name in sorted(previous, key=natural_order):
        had.setdefault(frozenset(previous[name]), []).append(name)
    for position, share in _nameless(shares, names):
        family = family_of(share.entry)
        used = {*names.values(), *plain}
        kept = (name for name in had.get(share.keys, ()) if family.fullmatch(name) and name not in used)
        names.update((position, name) for name in [*kept][:1])


def _give_own(shares: Sequence[Share], names: dict[int, str], plain: set[str]) -> None:
    """The name after the GPU's own index, where it is free."""
    used = {*names.values(), *plain}
    for position, share in _nameless(shares, names):
        if share.entry.gpus != 1:
            continue
        name = base_of(share.entry) + share.units[0].label.replace(":", "mig")
        if name not in used:
            names[position] = name
            used.add(name)


def _give_counted(
    shares: Sequence[Share], names: dict[int, str], plain: set[str], is_meant: Callable[[Share], bool]
) -> None:
    """The lowest free number."""
    used = {*names.values(), *plain}
    for position, share in _nameless(shares, names):
        if is_meant(share):
            names[position] = next(name for name in _counted(share) if name not in used)
            used.add(names[position])


def _counted(share: Share) -> Iterator[str]:
    base = base_of(share.entry)
    if share.entry.gpus == 1 and share.units[0].instance:
        base += f"{share.units[0].gpu.index}mig"
    return (f"{base}{number}" for number in count())


def _nameless(shares: Iterable[Share], names: Mapping[int, str]) -> list[tuple[int, Share]]:
    return [(position, share) for position, share in enumerate(shares) if position not in names]
