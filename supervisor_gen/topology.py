"""Reads a topology file: HOCON (JSON is HOCON) into a checked `Topology`, or every problem of it at once.

What is wrong is said with file and line. HOCON parsers tell no lines, so the text is scanned for them (`locate.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from agent.config import hocon
from agent.errors import ConfigError
from supervisor_gen import readings
from supervisor_gen.checks import problems_of
from supervisor_gen.locate import Key, Lines, lines_of
from supervisor_gen.model import AgentSettings, Entry, Limits, Place, Selector, Topology
from supervisor_gen.readings import Unexpected

Json = dict[str, Any]
Reading = Callable[[Any], Any]

LIMITS: Mapping[str, Reading] = {
    "memory": readings.memory_limit,
    "tasks": readings.whole(1),
    "cpu_weight": readings.whole(1, 10_000),
    "cpus": readings.cpus,
}
SETTINGS: Mapping[str, Reading] = {
    "queues": readings.texts,
    "order_fairness": readings.flag,
    "create_queue": readings.flag,
    "dynamic_gpus": readings.flag,
    "services_mode": readings.services_mode,
    "mode": readings.one_of("venv", "docker", "podman"),
    "image": readings.text,
    "arguments": readings.words,
    "uptime": readings.hours,
    "downtime": readings.hours,
    "user": readings.user,
    "config_file": readings.absolute_path,
    "options": readings.words,
}
SELECTOR: Mapping[str, Reading] = {
    "model": readings.texts,
    "memory": readings.memory_range,
    "index": readings.indexes,
    "mig": readings.texts,
}
PLACING: Mapping[str, Reading] = {
    "name": readings.agent_name,
    "hosts": readings.texts,
    "gpus": readings.gpus,
    "count": readings.count,
    "rest": readings.flag,
    "optional": readings.flag,
}
#: Settings that are sections of their own.
SETTINGS_SECTIONS = ("limits", "environment")


def read_topology(path: str) -> Topology:
    """The topology that a file declares. Raises ConfigError with every problem, each with its line."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        hint = "--topology names the file that declares this host's agents." if not os.path.exists(path) else ""
        raise ConfigError(f"{path}: {(error.strerror or 'unreadable').lower()}", hint=hint) from error
    return topology_from(text, file=path, folder=os.path.dirname(path))


def topology_from(text: str, *, file: str, folder: str | None = None) -> Topology:
    """The topology of a text; `file` is what errors call it, `folder` is where it includes files from."""
    reader = _Reader(file, lines_of(text))
    reader.check_includes(folder or "")
    topology = reader.topology(hocon.parse(text, source=file, folder=folder))
    if not reader.problems:
        for problem in problems_of(topology):
            reader.say(problem.place, problem.text)
    if reader.problems:
        raise ConfigError("\n".join(said for _, said in sorted(reader.problems)))
    return topology


@dataclass(slots=True)
class _Reader:
    """A file that is being read, and what was found wrong with it, by line."""

    file: str
    lines: Lines
    problems: list[tuple[int, str]] = field(default_factory=list)

    def topology(self, tree: Json) -> Topology:
        self._refuse_unknown(tree, ("groups", "defaults", "agents"), ())
        groups = self._groups(tree.get("groups", {}))
        defaults, places = self._defaults(tree.get("defaults", {}))
        agents = tree.get("agents")
        if not isinstance(agents, list):
            self._at(
                ("agents",), "agents: expected a list of entries" if "agents" in tree else "there is no list `agents`"
            )
            agents = []
        entries = [
            entry
            for position, given in enumerate(agents)
            if (entry := self._entry(given, ("agents", position), defaults, places)) is not None
        ]
        return Topology(file=self.file, entries=tuple(entries), groups=groups)

    def check_includes(self, folder: str) -> None:
        """HOCON passes over a file that is not there. Its agents would be drained for that, so it is an error here."""
        missing = [(name, line) for name, line in self.lines.includes if not os.path.exists(os.path.join(folder, name))]
        if missing:
            raise ConfigError(
                "\n".join(f"{Place(self.file, line)}: cannot include {name}: no such file" for name, line in missing)
            )

    def say(self, place: Place, text: str) -> None:
        said = (place.line, f"{place}: {text}")
        if said not in self.problems:
            self.problems.append(said)

    def _at(self, path: tuple[Key, ...], text: str) -> None:
        self.say(self._place(path), text)

    def _place(self, path: tuple[Key, ...]) -> Place:
        return Place(self.file, self.lines.line_of(path))

    def _groups(self, given: Any) -> dict[str, tuple[str, ...]]:
        if not isinstance(given, dict):
            self._at(("groups",), "groups: expected a section NAME: [patterns]")
            return {}
        return self._values(dict.fromkeys(given, readings.hosts_only), given, ("groups",))

    def _defaults(self, given: Any) -> tuple[Json, dict[str, Place]]:
        """Settings that hold for every entry, as they were written, and where; none if something is wrong with them."""
        if not isinstance(given, dict):
            self._at(("defaults",), "defaults: expected a section of settings")
            return {}, {}
        before = len(self.problems)
        self._refuse_unknown(given, (*SETTINGS, *SETTINGS_SECTIONS), ("defaults",))
        self._settings(given, ("defaults",))
        if len(self.problems) > before:
            return {}, {}
        return given, dict(self._places(given, ("defaults",)))

    def _entry(
        self, given: Any, path: tuple[Key, ...], defaults: Json, default_places: Mapping[str, Place]
    ) -> Entry | None:
        if not isinstance(given, dict):
            self._at(path, "expected an entry in braces")
            return None
        self._refuse_unknown(given, (*PLACING, "gpu", *SETTINGS, *SETTINGS_SECTIONS), path)
        return Entry(
            place=self._place(path),
            places={**default_places, **dict(self._places(given, path))},
            selector=self._selector(given.get("gpu", {}), (*path, "gpu")),
            settings=self._settings(hocon.merge(_without_hours(defaults, given), given), path),
            **self._values(PLACING, given, path),
        )

    def _settings(self, given: Json, path: tuple[Key, ...]) -> AgentSettings:
        values = self._values(SETTINGS, given, path)
        if "limits" in given:
            limits = self._section(given, "limits", path)
            self._refuse_unknown(limits, tuple(LIMITS), (*path, "limits"))
            values["limits"] = Limits(**self._values(LIMITS, limits, (*path, "limits")))
        if "environment" in given:
            variables = self._section(given, "environment", path)
            readings_ = {name: readings.variable(name) for name in variables}
            values["environment"] = self._values(readings_, variables, (*path, "environment"))
        return AgentSettings(**values)

    def _section(self, tree: Json, name: str, path: tuple[Key, ...]) -> Json:
        section = tree[name]
        if not isinstance(section, dict):
            self._at((*path, name), f"{name}: expected a section in braces")
            return {}
        return section

    def _selector(self, given: Any, path: tuple[Key, ...]) -> Selector:
        if not isinstance(given, dict):
            self._at(path, "gpu: expected a section in braces")
            return Selector()
        self._refuse_unknown(given, tuple(SELECTOR), path)
        values = self._values(SELECTOR, given, path)
        least, most = values.get("memory", (None, None))
        return Selector(
            models=values.get("model", ()),
            least_memory_mib=least,
            most_memory_mib=most,
            indexes=values.get("index", ()),
            mig=values.get("mig", ()),
        )

    def _values(self, known: Mapping[str, Reading], given: Json, path: tuple[Key, ...]) -> dict[str, Any]:
        """What was written of the known keys. A problem leaves its key out."""
        values = {}
        for name, reading in known.items():
            if name in given:
                try:
                    values[name] = reading(given[name])
                except Unexpected as error:
                    self._at((*path, name), error.about(_dotted((*path, name)), given[name]))
        return values

    def _refuse_unknown(self, given: Json, known: tuple[str, ...], path: tuple[Key, ...]) -> None:
        for name in given:
            if name not in known:
                close = get_close_matches(name, known, n=1, cutoff=0.6)
                guess = f"; did you mean {close[0]}?" if close else f" (known: {', '.join(known)})"
                self._at((*path, name), f"there is no key {name}{guess}")

    def _places(self, given: Json, path: tuple[Key, ...]) -> Iterator[tuple[str, Place]]:
        """Where each key was written, dotted."""
        for name, value in given.items():
            yield name, self._place((*path, name))
            if isinstance(value, dict):
                for inner in value:
                    yield f"{name}.{inner}", self._place((*path, name, inner))


def _dotted(path: tuple[Key, ...]) -> str:
    """A path as a person calls it within its entry: `gpu.model`."""
    return ".".join(str(key) for key in path if isinstance(key, str) and key not in ("agents", "defaults"))


def _without_hours(defaults: Json, given: Json) -> Json:
    """The defaults for an entry. Hours are one thing: one that has uptime or downtime has neither from there."""
    if "uptime" not in given and "downtime" not in given:
        return defaults
    return {name: value for name, value in defaults.items() if name not in ("uptime", "downtime")}
