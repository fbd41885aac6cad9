"""Where a fleet keeps its files. A state directory holds several fleets, so that two may run at once.

<state>/home/       HOME of everything that is started: caches of repositories, environments, packages
<state>/run-1/      one fleet: server data, agent state, repository, logs; locked while it runs
<state>/run-2/      a second one, started while the first was running
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from demo.processes import MARK, end_all

SLOTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The directories of one fleet, and the environment of everything that is started in it."""

    root: Path
    home: Path
    environment: Mapping[str, str]

    @property
    def mark(self) -> str:
        return str(self.root)

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


class StateBusy(Exception):
    """Every numbered directory is in use by a running fleet."""


@contextmanager
def claimed_place(state: Path, *, kind: str, keep: bool) -> Iterator[Place]:
    """The first directory `<kind>-N` that no running fleet holds, emptied unless `keep`, ours until the end."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    root, lock = _first_free(state.resolve(), kind)
    with lock:
        place = Place(root=root, home=state.resolve() / "home", environment=_environment(state.resolve(), root))
        # A fleet whose starter was killed may have left processes: we hold its lock, so they are nobody's.
        end_all(place.mark, grace_seconds=10)
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
        for folder in (root, place.home, root / "tmp", root / "log"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield place


def _first_free(state: Path, kind: str) -> tuple[Path, IO[str]]:
    for number in range(1, SLOTS + 1):
        lock = (state / f".{kind}-{number}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return state / f"{kind}-{number}", lock
    raise StateBusy(f"{SLOTS} fleets are running in {state}; end one, or choose another directory with --state")


def _environment(state: Path, root: Path) -> Mapping[str, str]:
    """Our environment with every place where something might be written moved below the state directory.

    Configuration of git, pip and uv that the person has is still read (XDG_CONFIG_HOME), settings for another
    ClearML server are not.
    """
    base = {name: value for name, value in os.environ.items() if not name.startswith(("CLEARML_", "TRAINS_"))}
    configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    cache = Path(os.environ.get("UV_CACHE_DIR") or state / "home/.cache/uv")
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
    return base | {
        MARK: str(root),
        "no_proxy": direct,
        "NO_PROXY": direct,
        "HOME": str(state / "home"),
        "TMPDIR": str(root / "tmp"),
        "XDG_CONFIG_HOME": configuration,
        "XDG_CACHE_HOME": str(state / "home/.cache"),
        "XDG_DATA_HOME": str(state / "home/.local/share"),
        "XDG_STATE_HOME": str(state / "home/.local/state"),
        "UV_CACHE_DIR": str(cache.absolute()),
        "PIP_CACHE_DIR": str(state / "home/.cache/pip"),
        "STATE_DIRECTORY": str(root / "agent"),
    }
