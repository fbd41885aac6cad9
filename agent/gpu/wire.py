"""Inventories as JSON: what `supervisor-gen inventory --json` prints, and what `--inventory` reads.

{"version": 1, "host": "gpu07",
 "gpus": [{"index": 0, "uuid": "GPU-…", "mig": [{…}], "peers": {"GPU-…": "nvlink"}, …}],
 "lost": [{"index": 1, "reason": "…"}]}
{"version": 1, "gpus": []}              this host has none
{"version": 1, "unknown": "reason"}     nobody can tell

Several hosts are a list of these. A person may write one too, and leave out what does not matter: a GPU is then a
typical one. What is there has to be right, since units are made of it: a wrong type or a key that nobody knows is a
ConfigError that says where. Everything that hosts have in common is kept once, so that a fleet fits in little memory.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from agent.errors import ConfigError
from agent.gpu.model import Gpu, Gpus, Inventory, Link, LostGpu, MigInstance, NoGpus, Unknown

VERSION = 1
LINKS = {link.value: link for link in Link}

_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+")
_CPUS = re.compile(r"(?:\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)?")
_NODE = re.compile(r"/dev/[0-9A-Za-z_/-]+")

_ABOUT_ALL = frozenset({"version", "host"})
_ABOUT_UNKNOWN = _ABOUT_ALL | {"unknown"}
_ABOUT_GPUS = _ABOUT_ALL | {field.name for field in fields(Gpus)}
_ABOUT_GPU = frozenset(field.name for field in fields(Gpu))
_ABOUT_INSTANCE = frozenset(field.name for field in fields(MigInstance))
_ABOUT_LOST = frozenset(field.name for field in fields(LostGpu))


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An inventory and the host that it is of; "" where that was not written down."""

    host: str
    inventory: Inventory


def hosts_from_json(data: Any, *, source: str = "") -> Iterator[Described]:
    """The hosts that `data` describes, one or a list of them; `source` is where it comes from."""
    prefix = f"{source}: " if source else ""
    if not isinstance(data, list):
        yield _described(_Entry(data, prefix))
        return
    for position, one in enumerate(data):
        yield _described(_Entry(one, f"{prefix}[{position}]."))


def inventory_from_json(data: Any, *, source: str = "") -> Inventory:
    """Read the inventory of one host; what a GPU's entry leaves out is made up from its index."""
    return _described(_Entry(data, f"{source}: " if source else "")).inventory


def host_to_json(described: Described) -> dict[str, Any]:
    """Undo `hosts_from_json` for one host."""
    return {"version": VERSION, "host": described.host, **inventory_to_json(described.inventory)}


def inventory_to_json(inventory: Inventory) -> dict[str, Any]:
    """Undo `inventory_from_json`."""
    match inventory:
        case Unknown():
            return {"version": VERSION, "unknown": inventory.reason}
        case NoGpus():
            return {"version": VERSION, "gpus": []}
        case Gpus():
            return {
                "version": VERSION,
                **_fields_of(inventory),
                "gpus": [_gpu_to_json(gpu) for gpu in inventory.gpus],
                "lost": [_fields_of(gpu) for gpu in inventory.lost],
            }


def _gpu_to_json(gpu: Gpu) -> dict[str, Any]:
    return {
        **_fields_of(gpu),
        "mig": [{**_fields_of(instance), "nodes": list(instance.nodes)} for instance in gpu.mig],
        "peers": {uuid: link.value for uuid, link in gpu.peers.items()},
    }


def _fields_of(value: Gpus | Gpu | MigInstance | LostGpu) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


class _Entry:
    """A JSON object that is being read, and how to say where it is."""

    __slots__ = ("_data", "_place")

    def __init__(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            raise ConfigError(f"{place.rstrip('.: ')}: expected an object, not {_shown(data)}".removeprefix(": "))
        self._data: dict[str, Any] = data
        self._place = place

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def only(self, known: frozenset[str]) -> None:
        """Refuse keys that are not `known`."""
        for key in self._data:
            if key not in known:
                self._refuse_key(key, known)

    def whole(self, key: str, default: int) -> int:
        value = self._data.get(key, default)
        if type(value) is not int or value < 0:
            self.refuse(key, "a whole number")
        return value

    def whole_or_none(self, key: str) -> int | None:
        return None if self._data.get(key) is None else self.whole(key, 0)

    def flag(self, key: str, default: bool) -> bool:
        value = self._data.get(key, default)
        if type(value) is not bool:
            self.refuse(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._data.get(key, default)
        if type(value) is not str:
            self.refuse(key, "text")
        return sys.intern(value)

    def shaped(self, key: str, shape: re.Pattern[str], what: str, default: str) -> str:
        """Text of a certain shape, since it becomes part of a unit."""
        value = self.text(key, default)
        if not shape.fullmatch(value):
            self.refuse(key, what)
        return value

    def nodes(self, key: str) -> tuple[str, ...]:
        value = self._data.get(key, [])
        if type(value) is not list or not all(type(node) is str and _NODE.fullmatch(node) for node in value):
            self.refuse(key, "a list of device nodes")
        return tuple(sys.intern(node) for node in value)

    def links(self, key: str) -> dict[str, Link]:
        value = self._data.get(key, {})
        if type(value) is not dict:
            self.refuse(key, "an object")
        try:
            return {sys.intern(uuid): LINKS[word] for uuid, word in value.items()}
        except (KeyError, TypeError):
            wrong = next(uuid for uuid, word in value.items() if type(word) is not str or word not in LINKS)
            _Entry(value, f"{self._place}{key}.").refuse(wrong, f"one of {', '.join(LINKS)}")

    def entries(self, key: str) -> Iterator[_Entry]:
        value = self._data.get(key, [])
        if type(value) is not list:
            self.refuse(key, "a list")
        for position, one in enumerate(value):
            yield _Entry(one, f"{self._place}{key}[{position}].")

    def refuse(self, key: str, expected: str) -> NoReturn:
        shown = _shown(self._data[key]) if key in self._data else "nothing"
        raise ConfigError(f"{self._place}{key}: expected {expected}, not {shown}")

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self._place}{key}: {problem}")

    def _refuse_key(self, key: str, known: Iterable[str]) -> NoReturn:
        from difflib import get_close_matches

        close = get_close_matches(key, known, n=1)
        self.fail(key, "unknown key" + (f"; did you mean {close[0]}?" if close else ""))


def _described(entry: _Entry) -> Described:
    version = entry.whole("version", VERSION)
    if version != VERSION:
        entry.fail("version", f"{version} is not a format that this version reads ({VERSION})")
    return Described(host=entry.text("host", ""), inventory=_inventory(entry))


def _inventory(entry: _Entry) -> Inventory:
    if "unknown" in entry:
        entry.only(_ABOUT_UNKNOWN)
        return Unknown(entry.text("unknown", ""))
    entry.only(_ABOUT_GPUS)
    if "gpus" not in entry:
        entry.refuse("gpus", "a list")
    taken: set[int | str] = set()
    gpus = tuple(_gpu(one, position, taken) for position, one in enumerate(entry.entries("gpus")))
    lost = tuple(_lost(one, taken) for one in entry.entries("lost"))
    versions = {key: entry.text(key, "") for key in ("driver_version", "cuda_version")}
    return Gpus(gpus=gpus, lost=lost, **versions) if gpus or lost else NoGpus()


def _gpu(entry: _Entry, position: int, taken: set[int | str]) -> Gpu:
    entry.only(_ABOUT_GPU)
    index = entry.whole("index", position)
    mig = tuple(_instance(one, index, number, taken) for number, one in enumerate(entry.entries("mig")))
    gpu = Gpu(
        index=index,
        uuid=entry.shaped("uuid", _UUID, "a UUID", f"GPU-00000000-0000-4000-8000-{index:012x}"),
        name=entry.text("name", "NVIDIA H100 80GB HBM3"),
        bus_id=entry.text("bus_id", f"00000000:{0x10 + index:02X}:00.0"),
        minor=entry.whole("minor", index),
        memory_total_mib=entry.whole("memory_total_mib", 81559),
        numa=entry.whole_or_none("numa"),
        mig_enabled=entry.flag("mig_enabled", bool(mig)),
        mig=mig,
        cpus=entry.shaped("cpus", _CPUS, "a list of CPUs", ""),
        peers=entry.links("peers"),
    )
    _take(entry, "index", gpu.index, taken)
    _take(entry, "uuid", gpu.uuid, taken)
    return gpu


def _instance(entry: _Entry, gpu: int, number: int, taken: set[int | str]) -> MigInstance:
    entry.only(_ABOUT_INSTANCE)
    index = entry.whole("index", number)
    instance = MigInstance(
        index=index,
        uuid=entry.shaped("uuid", _UUID, "a UUID", f"MIG-00000000-0000-4000-8{gpu:03x}-{index:012x}"),
        profile=entry.text("profile", "1g.10gb"),
        gi=entry.whole("gi", 7 + index),
        ci=entry.whole("ci", 0),
        memory_total_mib=entry.whole("memory_total_mib", 9856),
        nodes=entry.nodes("nodes"),
    )
    _take(entry, "uuid", instance.uuid, taken)
    return instance


def _lost(entry: _Entry, taken: set[int | str]) -> LostGpu:
    entry.only(_ABOUT_LOST)
    for key in ("index", "reason"):
        if key not in entry:
            entry.fail(key, "is missing")
    gpu = LostGpu(index=entry.whole("index", 0), reason=entry.text("reason", ""), refused=entry.flag("refused", False))
    _take(entry, "index", gpu.index, taken)
    return gpu


def _take(entry: _Entry, key: str, value: int | str, taken: set[int | str]) -> None:
    """Refuse what is already that of another GPU of the host."""
    if value in taken:
        entry.fail(key, f"{value} is there twice")
    taken.add(value)


def _shown(value: Any) -> str:
    match value:
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case None:
            return "null"
        case _:
            shown = repr(value)
            return shown if len(shown) < 40 else f"{shown[:40]}…"
