"""What a session leaves on this machine, and how it goes away again.

A session takes a number: its file below /run/gpufleet-tests stays locked as long as the session lives, and says where
everything with that number is. A file that can be locked although it says something belongs to a session that was
killed: whoever comes next clears that up. Processes are known by their control group, never by name.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

REGISTRY = Path("/run/gpufleet-tests")
NUMBERS = range(1, 250)
END_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Session:
    """One session's number and what is known of it. Names of links, namespaces and groups begin with `label`."""

    number: int
    folder: Path
    cgroups: list[Path] = field(default_factory=list)
    file: TextIOWrapper

    @property
    def label(self) -> str:
        """Short, because the name of a network interface has 15 characters at most."""
        return f"gft{self.number}"

    def register(self) -> None:
        """Write down where things are, before they are made."""
        self.file.seek(0)
        self.file.truncate()
        json.dump({"folder": str(self.folder), "cgroups": [str(each) for each in self.cgroups]}, self.file)
        self.file.flush()


@contextmanager
def session(cache: Path) -> Iterator[Session]:
    """A number of our own, with a folder for its files below `cache`; everything with that number goes at the end."""
    REGISTRY.mkdir(exist_ok=True)
    _clear_what_killed_sessions_left()
    taken = _take(cache)
    try:
        with suppress(FileExistsError):
            taken.folder.mkdir(parents=True)
        taken.cgroups = [own / taken.label for own in own_cgroups()]
        taken.register()
        yield taken
    finally:
        clear(taken)
        taken.file.close()


def _take(cache: Path) -> Session:
    for number in NUMBERS:
        if file := _lock(REGISTRY / str(number)):
            return Session(number=number, folder=cache / f"session-{number}", file=file)
    raise RuntimeError(f"{len(NUMBERS)} sessions with hosts at once: {REGISTRY}")


def _lock(path: Path) -> TextIOWrapper | None:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _clear_what_killed_sessions_left() -> None:
    for path in [each for each in REGISTRY.iterdir() if each.stat().st_size]:
        if file := _lock(path):
            with file:
                file.seek(0)
                if said := file.read():  # else its session has just ended in order
                    known = json.loads(said)
                    cgroups = [Path(each) for each in known["cgroups"]]
                    left = Session(number=int(path.name), folder=Path(known["folder"]), cgroups=cgroups, file=file)
                    clear(left)


def clear(left: Session) -> None:
    """End and remove everything of a session. Asked again it does the same to what is still there."""
    remove_cgroups(left.cgroups)
    remove_links(f"{left.label}v*")
    for namespace in sorted(Path("/run/netns").glob(f"{left.label}-*")):
        command("ip", "netns", "delete", namespace.name)
    if (Path("/sys/class/net") / left.label).exists():
        command("ip", "link", "delete", left.label)
    for point in mounts_below(left.folder):
        command("umount", str(point))
    shutil.rmtree(left.folder, ignore_errors=True)
    left.file.seek(0)
    left.file.truncate()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """However many sessions want the same thing at once, one makes it and the others find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def command(*words: str) -> str:
    """Run a program of the system; its output, or an error that holds what it said."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def remove_links(pattern: str) -> None:
    """Links of this machine, with their other ends. A namespace that is removed takes its own along, but later on, and
    the next session has the same names.
    """
    for link in Path("/sys/class/net").glob(pattern):
        command("ip", "link", "delete", link.name)


def mounts_below(folder: Path) -> list[Path]:
    """Mount points of this machine below a folder, the inner ones first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].replace(r"\040", " ")) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


# --- control groups


def own_cgroups() -> list[Path]:
    """The control group of this process in each hierarchy of this machine: one with cgroup2 alone, else several."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        root, point = place.split()[3:5]
        if kind.startswith("cgroup2 "):
            found.append(_below(point, root, own[""]))
        elif kind.startswith("cgroup "):
            options = set(kind.split()[2].split(","))
            mine = [path for names, path in own.items() if names and set(names.split(",")) <= options]
            found += [_below(point, root, path) for path in mine]
    return found


def _below(point: str, root: str, path: str) -> Path:
    return Path(point) / os.path.relpath(path, root)


def make_cgroup(path: Path) -> None:
    """A control group that processes may enter: a v1 cpuset has no CPUs and no memory before somebody gives it some."""
    path.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        ours, above = path / name, path.parent / name
        if ours.exists() and above.exists() and not ours.read_text().strip():
            with suppress(OSError):  # cgroup2 takes them over by itself
                ours.write_text(above.read_text())


def remove_cgroups(paths: Sequence[Path]) -> None:
    """End whatever runs in these control groups and remove them with those below."""
    end_processes(paths)
    for path in paths:
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)


def end_processes(cgroups: Sequence[Path]) -> None:
    """SIGKILL to everything in these control groups, until nothing is left."""
    deadline = time.monotonic() + END_SECONDS
    while pids := _processes_in(cgroups):
        if time.monotonic() > deadline:
            raise RuntimeError(f"still there after SIGKILL: {pids}")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _processes_in(cgroups: Sequence[Path]) -> set[int]:
    found: set[int] = set()
    for path in cgroups:
        for file in path.rglob("cgroup.procs"):
            with suppress(OSError):  # the group has gone meanwhile
                found.update(int(pid) for pid in file.read_text().split())
    return found - {0}
