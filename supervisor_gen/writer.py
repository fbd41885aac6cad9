"""What is on the disk, what should be, and getting from one to the other.

Only files that carry our header are ever replaced or removed. A file is written beside its place, synced and renamed,
so that a reader (systemd at a `daemon-reload`, a host that loses power) sees the old or the new content, nothing else.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ConfigError
from agent.files import sync_directory
from supervisor_gen.emitters.base import is_ours
from supervisor_gen.model import OWN_VARIABLES, File, Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What has to happen to the files below a root, by path: `stale` are ours and not wanted any more."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.stale)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted((*self.added, *self.changed, *self.stale)))


def files_on_disk(root: Path, patterns: Iterable[str]) -> dict[str, File]:
    """Our files below `root` among those that the patterns (of `Path.glob`) name."""
    found = {}
    for pattern in patterns:
        for path in root.glob(pattern):
            file = _read(path)
            if file is not None and is_ours(file.text):
                found[str(path.relative_to(root))] = file
    return found


def compare(before: Files, after: Files) -> Difference:
    """What turns the files `before` into the files `after`."""
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(path for path in after.keys() & before.keys() if after[path] != before[path])),
        stale=tuple(sorted(before.keys() - after.keys())),
    )


def refuse_foreign(root: Path, paths: Iterable[str]) -> None:
    """Raise ConfigError if something that is not ours is where we would write."""
    foreign = [str(root / path) for path in paths if _is_foreign(root / path)]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} exists and was not made by supervisor-gen"
            + (f" (and {len(foreign) - 1} more: {', '.join(foreign[1:])})" if foreign[1:] else ""),
            hint="Move it away; changes of your own belong into a drop-in beside it (systemctl edit).",
        )


def write_files(root: Path, files: Files) -> None:
    """Write these files, each whole or not at all, with their folders."""
    folders = set()
    for path, file in sorted(files.items()):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        _replace(target, file)
        folders.add(target.parent)
    for folder in sorted(folders):
        sync_directory(folder)


def remove_files(root: Path, paths: Iterable[str]) -> None:
    """Remove files, and the drop-in folders that this leaves empty."""
    for path in paths:
        target = root / path
        target.unlink(missing_ok=True)
        if target.parent.name.endswith(".d") and not any(target.parent.iterdir()):
            target.parent.rmdir()


def unified_diff(before: Files, after: Files) -> Iterator[str]:
    """The difference as `diff -u` writes it, a line at a time. Values in files for root alone are not shown."""
    for path in compare(before, after).paths:
        old, new = before.get(path), after.get(path)
        lines = list(
            difflib.unified_diff(
                _shown(old),
                _shown(new),
                f"a/{path}" if old else "/dev/null",
                f"b/{path}" if new else "/dev/null",
                lineterm="",
            )
        )
        yield from lines
        if old and new and old.mode != new.mode:
            yield f"mode of {path}: {old.mode:04o} -> {new.mode:04o}"
        elif not lines:
            yield f"{path}: values that are not shown change"


def _shown(file: File | None) -> list[str]:
    """The lines of a file; in one that is not for everybody, values of variables that are not ours are hidden."""
    lines = [] if file is None else file.text.splitlines()
    if file is None or file.mode & 0o077:
        return lines
    return [_hidden(line) for line in lines]


def _hidden(line: str) -> str:
    name, equals, _ = line.partition("=")
    return line if not equals or name in OWN_VARIABLES or line.startswith("#") else f"{name}=***"


def _read(path: Path) -> File | None:
    try:
        if not path.is_file() or path.is_symlink():
            return None
        return File(path.read_text(encoding="utf-8"), stat.S_IMODE(path.stat().st_mode))
    except UnicodeDecodeError:
        return None
    except PermissionError as error:
        raise ConfigError(f"cannot read {path}: permission denied", hint="Run as root.") from error


def _is_foreign(path: Path) -> bool:
    if not os.path.lexists(path):
        return False
    file = _read(path)
    return file is None or not is_ours(file.text)


def _replace(target: Path, file: File) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.text)
            stream.flush()
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {target}: {(error.strerror or 'unknown').lower()}") from error
