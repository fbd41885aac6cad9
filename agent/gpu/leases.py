"""Who has which GPU, among all agents of a host: a lock on a file per GPU or MIG instance, named by its UUID.

| who                                     | holds                                                                 |
|-----------------------------------------|-----------------------------------------------------------------------|
| an agent that was given GPUs (`--gpus`) | each of them, shared with others of its kind, for its whole life      |
| the same with a share (`--gpu-share`)   | its percents of the GPU as well                                       |
| a task of `--dynamic-gpus`              | each of its GPUs, alone                                               |

The locks are flock(2): the kernel releases one when the last process that holds its descriptor is gone. An agent hands
the descriptors on to the executor, and that to the task, so a GPU stays taken for as long as anybody computes on it,
whichever of the three dies first. Percents are 100 bytes of a second file, each locked by one owner (open file
description locks, fcntl(2)), which are inherited in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

SHARED_PLACE = Path("/run/lock/clearml-agent")
PERCENTS = 100
#: struct flock of a 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")
_BUSY = (errno.EAGAIN, errno.EACCES)


def leases_folder(configured: str, state: Path) -> tuple[Path, bool]:
    """Where leases are, and whether all users of this host share it.

    Anybody may lock a GPU there, as anybody may use one: sticky like /tmp, so that nobody removes what others made.
    """
    wanted = Path(configured) if configured else SHARED_PLACE
    with contextlib.suppress(OSError):
        if not wanted.is_dir():
            wanted.mkdir(parents=True)
            wanted.chmod(0o1777)
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted, True
    own = state / "gpus"
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    return own, False


class Leases:
    """The locks in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, uuid: str, *, alone: bool) -> int | None:
        """The descriptor of a lease, None if somebody's lease is in the way. Close it to give the GPU back."""
        descriptor = self._open(f"{uuid}.lock")
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def is_free(self, uuid: str) -> bool:
        """Whether nobody has a lease at this moment."""
        descriptor = self.take(uuid, alone=True)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def take_percents(self, uuid: str, wanted: int) -> int | None:
        """The descriptor of so many percents of a GPU, None if fewer are left."""
        descriptor = self._open(f"{uuid}.shares")
        taken = 0
        for percent in range(PERCENTS):
            taken += _lock_byte(descriptor, percent)
            if taken == wanted:
                return descriptor
        os.close(descriptor)
        return None

    def _open(self, name: str) -> int:
        """A lock file, made by whoever comes first and open to everybody: fs.protected_regular forbids O_CREAT on files
        of others in such a folder, so that is only tried where there is none.
        """
        path = self._folder / name
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o666)
        return descriptor


def _lock_byte(descriptor: int, at: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return False
    return True
