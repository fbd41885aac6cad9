"""Layers: environments that are built once, under a key that says what they hold, and read by many runs.

    <venvs_cache.path>.layers/
        <key>/         a layer; it exists under this name only when it is complete
        .locks/<key>   held shared by every run that reads the layer, alone by who builds or removes it
        .building/     layers being built, each with a lock that dies with its builder

A kill in the middle leaves a folder in `.building` whose lock nobody holds; whoever builds next removes it. A layer is
not written to after its rename: files and folders lose their write permission, apart from `__pycache__`, where
Python keeps what it compiled at first import. Every reader compares the times of all folders with what the builder
noted, which tells whether anything was added, removed or replaced; root, to whom permissions say nothing, compares
sizes and times of all files too. A layer that was tampered with is built anew. (16,000 files, which is torch with
CUDA, take 0.15 s; their folders a tenth of that.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from agent.config.schema import VenvsCacheSettings
from agent.executor.locks import acquire, exclusive, try_acquire
from agent.files import load_json, write_json
from agent.packages.venv import LayerFiles
from agent.process.stop import StopSignal

_METADATA = "layer.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A complete layer: where it lies, what is in it and what of it an environment has to show."""

    folder: str
    frozen: tuple[str, ...]
    files: LayerFiles
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a builder reports about the folder it was given."""

    frozen: tuple[str, ...]
    files: LayerFiles


Builder = Callable[[str], Built]


def key_for(*parts: object) -> str:
    """A name for everything in `parts`; equal parts give equal names, on every host and in every year."""
    import json
    from _blake2 import blake2b

    text = json.dumps([_VERSION, *parts], ensure_ascii=True, sort_keys=True)
    return blake2b(text.encode(), digest_size=12).hexdigest()


def root_of(settings: VenvsCacheSettings) -> str:
    """Beside the configured folder rather than in it: `clearml-agent` removes what it finds there by age."""
    return os.path.expanduser(settings.path).rstrip("/") + ".layers"


class LayerCache:
    """The layers of a host. `note` receives sentences for the task's console."""

    def __init__(self, settings: VenvsCacheSettings, *, stop: StopSignal, note: Callable[[str], None]) -> None:
        self._root = root_of(settings)
        self._settings = settings
        self._stop = stop
        self._note = note

    @contextlib.contextmanager
    def open(self, key: str, build: Builder) -> Iterator[Layer]:
        """The layer of that key, built by `build` where there is none; it cannot be removed while this is open."""
        for folder in (self._root, f"{self._root}/.locks", f"{self._root}/.building"):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        lock, layer = self._shared(key, build)
        try:
            yield layer
        finally:
            os.close(lock)

    def _shared(self, key: str, build: Builder) -> tuple[int, Layer]:
        is_new = False
        while True:
            lock = acquire(self._lock(key), fcntl.LOCK_SH, stop=self._stop, on_wait=self._say_waiting)
            if (layer := self._read(key, is_new=is_new)) is not None:
                return lock, layer
            os.close(lock)
            # Between these two locks somebody else may have built it, and after the second one somebody may have
            # removed it again; hence the loop.
            with exclusive(self._lock(key), stop=self._stop, on_wait=self._say_waiting):
                if self._read(key, is_new=False) is None:
                    self._build(key, build)
                    is_new = True

    def _say_waiting(self) -> None:
        self._note("waiting for another agent that is building the same environment")

    def _lock(self, key: str) -> str:
        return f"{self._root}/.locks/{key}"

    def _read(self, key: str, *, is_new: bool) -> Layer | None:
        folder = f"{self._root}/{key}"
        try:
            known = load_json(f"{folder}/{_METADATA}")
            if known["version"] != _VERSION:
                return None
            layer = _from_json(folder, known, is_new=is_new)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not is_new and signature(folder, files=_sees_through()) != known[_sign_name(_sees_through())]:
            self._note(f"environment {key[:8]} was changed after it had been built; building it anew")
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)
        return layer

    def _build(self, key: str, build: Builder) -> None:
        self._remove(key)
        self._collect()
        temporary = f"{self._root}/.building/{key}.{os.getpid()}.{time.monotonic_ns()}"
        with exclusive(f"{temporary}.lock", stop=self._stop):
            try:
                built = build(temporary)
                seal(temporary)
                write_json(f"{temporary}/{_METADATA}", _to_json(built, temporary))
                os.rename(temporary, f"{self._root}/{key}")
            except BaseException:
                remove_tree(temporary)
                raise
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{temporary}.lock")
        self._make_room(key)

    def _collect(self) -> None:
        """Remove what builders left that are no longer there."""
        building = f"{self._root}/.building"
        for name in os.listdir(building):
            folder = f"{building}/{name.removesuffix('.lock')}"
            lock = try_acquire(f"{folder}.lock", fcntl.LOCK_EX)
            if lock is None:
                continue
            remove_tree(folder)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}.lock")
            os.close(lock)

    def _make_room(self, newest: str) -> None:
        """Remove the least recently used layers beyond the limits, but none that is in use and never all of them.

        A disk that something else fills is not helped by losing every environment, so a lack of space costs at
        most half of the layers at a time.
        """
        layers = [key for key in self._by_age() if key != newest]
        surplus = max(0, len(layers) + 1 - max(1, self._settings.max_entries))
        spare = (len(layers) + 1) // 2 if self._is_tight() else 0
        for number, key in enumerate(layers):
            if number >= surplus and (number >= spare or not self._is_tight()):
                break
            if (lock := try_acquire(self._lock(key), fcntl.LOCK_EX)) is None:
                continue
            self._remove(key)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._lock(key))
            os.close(lock)

    def _by_age(self) -> list[str]:
        with os.scandir(self._root) as entries:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if self._is_layer(entry)]
        return [name for _, name in sorted(found)]

    def _is_layer(self, entry: os.DirEntry[str]) -> bool:
        return not entry.name.startswith(".") and os.path.exists(f"{entry.path}/{_METADATA}")

    def _is_tight(self) -> bool:
        room = os.statvfs(self._root)
        return room.f_bavail * room.f_frsize < self._settings.free_space_threshold_gb * 2**30

    def _remove(self, key: str) -> None:
        """Out of sight first, so that nobody sees half of it; the caller holds its lock."""
        folder = f"{self._root}/{key}"
        if os.path.lexists(folder):
            away = f"{self._root}/.building/{key}.{os.getpid()}.{time.monotonic_ns()}.gone"
            os.rename(folder, away)
            remove_tree(away)


def seal(folder: str) -> None:
    """Take the write permission from everything in a layer, after giving Python places to keep compiled files."""
    for parent, folders, names in os.walk(folder):
        if any(name.endswith(".py") for name in names) and "__pycache__" not in folders:
            os.mkdir(f"{parent}/__pycache__", 0o755)
        for name in names:
            path = f"{parent}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and os.path.basename(parent) != "__pycache__":
                os.chmod(path, stat.S_IMODE(mode) & ~0o222)
    for parent, _, _ in os.walk(folder, topdown=False):
        if parent != folder and os.path.basename(parent) != "__pycache__":
            os.chmod(parent, stat.S_IMODE(os.stat(parent).st_mode) & ~0o222)


def _sees_through() -> bool:
    """Whether permissions would not have kept a task from writing to a file."""
    return os.geteuid() == 0


def _sign_name(files: bool) -> str:
    return "signature" if files else "signature_of_folders"


def signature(folder: str, *, files: bool) -> str:
    """A short text that changes when a layer does; what Python compiled does not count.

    Without `files` only the times of folders are looked at, which misses what is written into an existing file.
    """
    from _blake2 import blake2b

    state = blake2b(digest_size=16)
    pending = [folder]
    while pending:
        current = pending.pop()
        with os.scandir(current) as entries:
            found = sorted(entries, key=_entry_name)
        for entry in found:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                if name != "__pycache__":
                    pending.append(entry.path)
                    changed = entry.stat(follow_symlinks=False).st_mtime_ns
                    state.update(f"{name}/\t{changed}\n".encode("utf-8", "surrogateescape"))
            elif files and name != _METADATA:
                known = entry.stat(follow_symlinks=False)
                state.update(f"{name}\t{known.st_size}\t{known.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def remove_tree(folder: str) -> None:
    """Remove a layer, whose folders refuse to have anything removed from them."""
    if not os.path.isdir(folder):
        return
    import shutil

    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(parent, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _to_json(built: Built, folder: str) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "built_at_ms": int(time.time() * 1000),
        "frozen": built.frozen,
        "files": asdict(built.files),
        _sign_name(True): signature(folder, files=True),
        _sign_name(False): signature(folder, files=False),
    }


def _from_json(folder: str, known: dict[str, Any], *, is_new: bool) -> Layer:
    files = known["files"]
    listed = LayerFiles(
        prefix=files["prefix"],
        scripts=tuple(files["scripts"]),
        programs=tuple(files["programs"]),
        data=tuple(files["data"]),
    )
    return Layer(folder=folder, frozen=tuple(known["frozen"]), files=listed, is_new=is_new)
