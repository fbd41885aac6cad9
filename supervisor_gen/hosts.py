"""Which entries of a topology are about a host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import translate

from supervisor_gen.model import Entry, Topology

_SIGNS = re.compile(r"[*?\[]")


class HostPatterns:
    """The host patterns of a topology, compiled once for any number of hosts.

    A pattern is for the host's name or its short form (before the first dot), in exact letter case. Plain names are
    looked up, so that a topology with an entry per host costs no more than one with a pattern.
    """

    def __init__(self, topology: Topology) -> None:
        self._everywhere: list[int] = []
        self._plain: dict[str, list[int]] = {}
        self._shaped: dict[tuple[str, ...], list[int]] = {}
        for position, entry in enumerate(topology.entries):
            self._add(position, entry, [*_expanded(entry, topology)])
        self._compiled = [
            (re.compile("|".join(f"(?:{translate(shape)})" for shape in shapes)), positions)
            for shapes, positions in self._shaped.items()
        ]

    def about(self, host: str) -> tuple[int, ...]:
        """The positions of the entries that are about `host`, in file order."""
        names = {host, host.partition(".")[0]}
        found = {*self._everywhere}
        for name in names:
            found.update(self._plain.get(name, ()))
        for pattern, positions in self._compiled:
            if any(pattern.match(name) for name in names):
                found.update(positions)
        return tuple(sorted(found))

    def _add(self, position: int, entry: Entry, patterns: list[str]) -> None:
        if not entry.hosts:
            self._everywhere.append(position)
        for name in patterns:
            if not _SIGNS.search(name):
                self._plain.setdefault(name, []).append(position)
        shapes = tuple(pattern for pattern in patterns if _SIGNS.search(pattern))
        if shapes:
            self._shaped.setdefault(shapes, []).append(position)


def _expanded(entry: Entry, topology: Topology) -> Iterator[str]:
    """The entry's patterns with those of its groups; the reader has checked that the groups exist."""
    for pattern in entry.hosts:
        if pattern.startswith("@"):
            yield from topology.groups.get(pattern[1:], ())
        else:
            yield pattern
