"""Whether the disks that a task needs have room: where runs are kept, the caches, and temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.config.schema import AgentSettings

MIB = 1024 * 1024
GIB = 1024 * MIB
#: No disk has to have more than this part of itself free: a small one for temporary files may be all there is.
MOST_OF_A_DISK = 0.1
#: A disk that was short has to have this much more than it needs, or a file more or less would change its mind.
ENOUGH = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A disk, by a folder on it, with its bytes."""

    folder: str
    free: int
    total: int

    def wanted(self, least: float) -> float:
        return min(least, self.total * MOST_OF_A_DISK)


def folders_of(agent: AgentSettings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where an agent and its tasks write, by the settings and by the variables that tools go by."""
    home = environ.get("HOME") or os.path.expanduser("~")
    caches = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    installer = agent.package_manager.type if agent.package_manager.type in ("uv", "pip") else "pip"
    found = (
        agent.state_dir,
        agent.vcs_cache.path if agent.vcs_cache.enabled else "",
        agent.venvs_cache.path,
        environ.get(f"{installer.upper()}_CACHE_DIR") or os.path.join(caches, installer),
        environ.get("TMPDIR") or "/tmp",  # noqa: S108 - only looked at
    )
    return tuple(dict.fromkeys(os.path.expanduser(folder) for folder in found if folder))


def rooms(folders: Iterable[str]) -> tuple[Room, ...]:
    """One for each disk that these folders are on, or will be on; one that cannot be looked at is left out."""
    found: dict[int, Room] = {}
    for folder in folders:
        try:
            there = _nearest(folder)
            disk, device = os.statvfs(there), os.stat(there).st_dev
        except OSError:
            continue
        room = Room(folder=folder, free=disk.f_bavail * disk.f_frsize, total=disk.f_blocks * disk.f_frsize)
        found.setdefault(device, room)
    return tuple(found.values())


def short_of(seen: Iterable[Room], known: Mapping[str, str], *, least: float) -> dict[str, str]:
    """What to say of each disk without room, by its folder. `known` is what was said before, and stays as it is: a
    number that changes with every look is no news.
    """
    return {room.folder: known.get(room.folder) or _said(room, least) for room in seen if _is_short(room, known, least)}


def _is_short(room: Room, known: Mapping[str, str], least: float) -> bool:
    wanted = room.wanted(least)
    return room.free < (wanted * ENOUGH if room.folder in known else wanted)


def _said(room: Room, least: float) -> str:
    return f"disk: {room.free // MIB} MiB free in {room.folder}, {room.wanted(least) / MIB:.0f} MiB are wanted"


def _nearest(folder: str) -> str:
    """The folder, or the first above it that is there."""
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder
