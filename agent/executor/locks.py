"""Locks between agents of a host: flock on a file, which the kernel gives back whatever happens to its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from agent.process.stop import StopSignal

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.1
_QUIET_SECONDS = 1.0


class LockTimeout(Exception):
    """Somebody else kept a lock for longer than we were willing to wait."""


@contextlib.contextmanager
def exclusive(
    path: str, *, stop: StopSignal, on_wait: Callable[[], None] = lambda: None, timeout_seconds: float | None = None
) -> Iterator[int]:
    """Hold a file alone. `on_wait` is called once when it takes longer than a person would notice."""
    fd = acquire(path, fcntl.LOCK_EX, stop=stop, on_wait=on_wait, timeout_seconds=timeout_seconds)
    try:
        yield fd
    finally:
        os.close(fd)


def acquire(
    path: str,
    kind: int,
    *,
    stop: StopSignal,
    on_wait: Callable[[], None] = lambda: None,
    timeout_seconds: float | None = None,
) -> int:
    """A descriptor that holds the lock until it is closed; LockTimeout or StopRequested instead of waiting for ever."""
    started = time.monotonic()
    pause, told = _FIRST_WAIT, False
    while (fd := try_acquire(path, kind)) is None:
        waited = time.monotonic() - started
        if timeout_seconds is not None and waited >= timeout_seconds:
            raise LockTimeout(path)
        if not told and waited >= _QUIET_SECONDS:
            told = True
            on_wait()
        stop.wait(pause)
        pause = min(pause * 2, _LONGEST_WAIT)
    return fd


def try_acquire(path: str, kind: int) -> int | None:
    """The lock at once, or None. A lock file that was removed under our hands is opened again."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)
