"""Mirrors of repositories, one per URL, shared by all agents of a host.

A mirror is a bare repository that only ever grows: `git fetch` adds packs to it, nothing is pruned or collected, and
a working copy links the packs it needs, so it stays valid whatever becomes of the mirror. Reading needs no lock;
fetching takes one (flock, which dies with its holder). Under that lock every `*.lock` and `tmp_*` file inside is what a
killed git left behind, and is removed before the next one stumbles over it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agent.errors import SetupFailed
from agent.executor.git import Git, failure
from agent.executor.locks import exclusive
from agent.executor.remotes import Candidate, Remote
from agent.process.run import CommandFailed, tail

_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_MANY_PACKS = 30
_ROAD_FILE = "fetched-from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A bare repository at `path`."""

    path: str
    git: Git

    def resolve(self, *names: str) -> str | None:
        """The commit that the first of these names stands for, or None."""
        for name in names:
            done = self.git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}",
                                cwd=self.path, check=False)  # fmt: skip
            if done.returncode == 0:
                return done.text.strip()
        return None

    def refs(self) -> str:
        """All branches and tags, one `<sha> <name>` a line."""
        return self.git.run("for-each-ref", "--format=%(objectname) %(refname)", cwd=self.path).text

    def packs(self) -> tuple[str, ...]:
        """The files of its object store, relative to `objects/`."""
        with os.scandir(f"{self.path}/objects/pack") as entries:
            return tuple(f"pack/{entry.name}" for entry in entries if entry.name.startswith("pack-"))


def path_for(root: str, remote: Remote) -> str:
    """Where the mirror of a repository lies; two URLs never share one."""
    from _blake2 import blake2b

    return f"{root}/{remote.name}.{blake2b(remote.url.encode(), digest_size=8).hexdigest()}.git"


def open_mirror(path: str, git: Git) -> Mirror:
    """The mirror at `path`, created empty where there is none."""
    if not os.path.exists(f"{path}/HEAD"):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        # Initialising is safe to repeat, but not at once: git refuses where another one has just locked its config.
        with exclusive(f"{path}.lock", stop=git.commands.stop):
            git.run("init", "--quiet", "--bare", "--template=", path)
    return Mirror(path=path, git=git)


def fetch(
    mirror: Mirror, roads: Sequence[Candidate], *, extra: Sequence[str], wait_note: Callable[[], None]
) -> Candidate:
    """Bring a mirror up to date over the first road that works, and answer which one that was.

    `extra` are further refspecs (a commit by its id). The road that worked last time is tried first.
    """
    with exclusive(f"{mirror.path}.lock", stop=mirror.git.commands.stop, on_wait=wait_note):
        _sweep(mirror.path)
        failures: list[tuple[Candidate, CommandFailed]] = []
        for road in _best_first(mirror.path, roads):
            try:
                _fetch(mirror, road.remote.url, extra)
            except CommandFailed as error:
                failures.append((road, error))
                _sweep(mirror.path)  # git leaves half a pack behind when it has filled the disk
                continue
            _remember(mirror.path, road)
            _tidy(mirror)
            return road
    raise _all_failed(failures)


def _fetch(mirror: Mirror, url: str, extra: Sequence[str]) -> None:
    refspecs = tuple(extra) or _REFSPECS
    prune = () if extra else ("--prune",)
    mirror.git.run(
        "fetch",
        "--quiet",
        "--force",
        "--no-tags",
        "--no-write-fetch-head",
        *prune,
        "--",
        url,
        *refspecs,
        cwd=mirror.path,
    )


def _best_first(path: str, roads: Sequence[Candidate]) -> list[Candidate]:
    with contextlib.suppress(OSError):
        with open(f"{path}/{_ROAD_FILE}", encoding="utf-8") as file:
            last = file.read()
        return sorted(roads, key=lambda road: road.remote.url != last)
    return list(roads)


def _remember(path: str, road: Candidate) -> None:
    with open(f"{path}/{_ROAD_FILE}", "w", encoding="utf-8") as file:
        file.write(road.remote.url)


def _sweep(path: str) -> None:
    for left in _left_behind(path):
        with contextlib.suppress(OSError):
            os.unlink(left)


def _left_behind(path: str) -> Iterator[str]:
    for folder, _, names in os.walk(path):
        for name in names:
            if name.endswith(".lock") or name.startswith("tmp_"):
                yield f"{folder}/{name}"


def _tidy(mirror: Mirror) -> None:
    """Many small packs slow every reader down; merging the small ones drops no object."""
    packs = sum(name.endswith(".pack") for name in mirror.packs())
    if packs > _MANY_PACKS:
        mirror.git.run("repack", "--quiet", "-d", "--geometric=2", cwd=mirror.path, check=False)


def _all_failed(failures: Sequence[tuple[Candidate, CommandFailed]]) -> SetupFailed:
    """If anything but a refusal was in the way of one of the roads, it may be open another time."""
    each = [failure(error, f"cannot fetch the repository {failures[0][0].remote.url}") for _, error in failures]
    main = next((error for error in each if error.infrastructure), each[0])
    told = (f"{road.remote.url} ({road.why}): {tail(error.output, 12) or error.message}" for road, error in failures)
    return SetupFailed(main.message, hint=main.hint, details="\n".join(told), infrastructure=main.infrastructure)
