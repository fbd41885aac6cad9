"""Files below one folder, named by strangers: a path given here can never lead out of it.

Paths are walked part by part from an open handle of the root, never following a symbolic link, so there is no moment
between a check and its use. An upload is written under a name of its own in a folder inside the root and moved to its
place when it is complete; a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_INCOMING = ".incoming"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEADS_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class PathError(ValueError):
    """There is no such file, or the path tries to leave the root."""


class OccupiedPathError(ValueError):
    """A file cannot be put there: a folder has that name, or a file stands where a folder is needed."""


class DiskFullError(OSError):
    """There is no room for the upload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A stored file, open for reading; whoever gets it closes `handle`."""

    handle: int
    size: int
    modified: float

    @property
    def etag(self) -> str:
        return f'"{int(self.modified * 1_000_000):x}-{self.size:x}"'


def parts_of(path: str) -> tuple[str, ...]:
    """Split a path into names; empty parts and single dots mean nothing, a way upwards is refused."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if not parts or ".." in parts or "\0" in path or parts[0] == _INCOMING:
        raise PathError(path)
    return parts


class Upload:
    """A file on its way in."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._name = uuid.uuid4().hex
        self._handle = os.open(
            self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=tree.incoming
        )
        self._open = True

    def write(self, data: bytes | memoryview) -> None:
        """Append to the file."""
        view = memoryview(data)
        with _room_errors():
            while view:
                view = view[os.write(self._handle, view) :]

    def keep(self, parts: Sequence[str]) -> None:
        """Put the complete file in its place, replacing what is there."""
        self._close()
        with self._tree.folder(parts[:-1], create=True) as folder:
            try:
                os.rename(self._name, parts[-1], src_dir_fd=self._tree.incoming, dst_dir_fd=folder)
            except OSError as error:
                self._remove()
                raise OccupiedPathError("/".join(parts)) from error

    def discard(self) -> None:
        """Forget the file; harmless when it was kept."""
        self._close()
        self._remove()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._handle)

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._tree.incoming)


class FileTree:
    """The stored files. One process at a time may have a tree open: it clears away half-done uploads of the last."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(root / _INCOMING, ignore_errors=True)
        (root / _INCOMING).mkdir(mode=0o700)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.incoming = os.open(_INCOMING, _FOLDER_FLAGS, dir_fd=self._root)

    def close(self) -> None:
        """Let go of the root."""
        os.close(self.incoming)
        os.close(self._root)

    def begin(self) -> Upload:
        """Start an upload; it is placed by `Upload.keep`."""
        with _room_errors():
            return Upload(self)

    def open(self, path: str) -> OpenFile:
        """Open a file for reading, or raise `PathError`."""
        parts = parts_of(path)
        with _missing(path), self.folder(parts[:-1]) as folder:
            # O_NONBLOCK: a named pipe put here by hand must not block the server
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(parts[-1], flags, dir_fd=folder)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise PathError(path)
        return OpenFile(handle=handle, size=status.st_size, modified=status.st_mtime)

    def delete(self, path: str) -> None:
        """Delete a file, or raise `PathError`."""
        parts = parts_of(path)
        with _missing(path), self.folder(parts[:-1]) as folder:
            os.unlink(parts[-1], dir_fd=folder)

    def delete_with_content(self, path: str) -> None:
        """Delete a file, or a folder with everything in it, or raise `PathError`."""
        parts = parts_of(path)
        with _missing(path), self.folder(parts[:-1]) as folder:
            if stat.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(parts[-1], dir_fd=folder)
            else:
                os.unlink(parts[-1], dir_fd=folder)

    @contextlib.contextmanager
    def folder(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Yield a handle of the folder, without following a link on the way."""
        handle = os.dup(self._root)
        try:
            for part in parts:
                inner = _enter(handle, part, create=create)
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)


def _enter(folder: int, name: str, *, create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError), _room_errors():
            os.mkdir(name, 0o700, dir_fd=folder)
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except OSError as error:
        if create and error.errno in _LEADS_NOWHERE:
            raise OccupiedPathError(name) from error
        raise


@contextlib.contextmanager
def _missing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _LEADS_NOWHERE or isinstance(error, PermissionError):
            raise PathError(path) from error
        raise


@contextlib.contextmanager
def _room_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise DiskFullError(error.errno, os.strerror(error.errno)) from error
        if error.errno == errno.ENAMETOOLONG:
            raise OccupiedPathError(str(error)) from error
        raise
