"""The agents that the last `apply` has left on this host, and which of them somebody means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from agent.errors import ConfigError, UsageError
from agent.files import load_json
from agent.gpu.model import Gpus
from agent.gpu.wire import Described, hosts_from_json
from supervisor_gen import state
from supervisor_gen.devices import Unit, device_of, units_of
from supervisor_gen.emitters.base import Emitter, Written
from supervisor_gen.writer import files_on_disk

MOST_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU or MIG instance that an agent has, as the last `apply` saw it. `index` is NVML's, None where it saw none;
    `names` is what a person may call it by.
    """

    uuid: str
    index: int | None = None
    label: str = ""
    model: str = ""
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """`gpus` are those of each agent; `present` all that the host had."""

    host: str
    gpus: Mapping[str, tuple[Gpu, ...]]
    present: tuple[Gpu, ...] = ()
    written: Mapping[str, Written] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.gpus)


def roster_of(root: Path, emitter: Emitter) -> Roster:
    """What `apply` remembers, and what is on the disk. Raises ConfigError for what cannot be read."""
    _refuse_closed(root, emitter)
    described = _described(root)
    present = {unit.key: _gpu_of(unit) for unit in _units(described) if not unit.lost}
    known, files = state.names_of(root), files_on_disk(root, emitter.patterns)
    names = sorted({*known, *(emitter.owner(path) for path in files)} - {""})
    return Roster(
        host=(described.host if described else "") or os.uname().nodename,
        gpus={name: tuple(present.get(uuid, Gpu(uuid=uuid)) for uuid in known.get(name, ())) for name in names},
        present=tuple(present.values()),
        written={name: emitter.written(name, files) for name in names},
    )


def chosen(roster: Roster, patterns: Sequence[str], gpus: Sequence[str]) -> tuple[str, ...]:
    """The agents that are called so (names or shell patterns), or have such a GPU (index or UUID); all without either.

    Raises UsageError for a pattern that fits no agent, and for a GPU that this host has not.
    """
    if not patterns and not gpus:
        return roster.names
    found = {name for pattern in patterns for name in _called(roster.names, pattern)}
    found |= {name for gpu in gpus for name in _having(roster, gpu)}
    return tuple(sorted(found))


def _refuse_closed(root: Path, emitter: Emitter) -> None:
    """A folder that we may not look into looks like an empty one."""
    for folder in {(root / pattern).parent for pattern in emitter.patterns if "*" not in pattern.rpartition("/")[0]}:
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigError(f"cannot read {folder}: permission denied", hint="Run as root.")


def _called(names: Sequence[str], pattern: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        close = get_close_matches(pattern, names, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(f"this host has no agent {pattern}", hint=f"{hint}It has: {_some(names)}.")
    return found


def _having(roster: Roster, wanted: str) -> list[str]:
    everything = {gpu.uuid: gpu for gpu in (*roster.present, *(gpu for own in roster.gpus.values() for gpu in own))}
    uuids = {gpu.uuid for gpu in everything.values() if wanted.lower() in gpu.names | {gpu.uuid.lower()}}
    if not uuids:
        has = _some(gpu.label or gpu.uuid for gpu in everything.values())
        raise UsageError(f"this host had no GPU {wanted} at the last apply", hint=f"It had: {has}.")
    return [name for name, own in roster.gpus.items() if uuids & {gpu.uuid for gpu in own}]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MOST_NAMED]) + (", …" if names[MOST_NAMED:] else "") or "none"


def _described(root: Path) -> Described | None:
    file = state.inventory_file(root)
    try:
        return next(iter(hosts_from_json(load_json(file), source=str(file))), None)
    except FileNotFoundError:
        return None


def _units(described: Described | None) -> tuple[Unit, ...]:
    return units_of(described.inventory) if described and isinstance(described.inventory, Gpus) else ()


def _gpu_of(unit: Unit) -> Gpu:
    gpu, device = unit.gpu, device_of(unit)
    names = frozenset({str(gpu.index), unit.label, gpu.uuid.lower()})
    return Gpu(uuid=device.uuid, index=gpu.index, label=unit.label, model=device.model, names=names)
