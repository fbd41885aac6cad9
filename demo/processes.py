"""Starting processes that cannot outlive us unnoticed, and finding and ending what one of them left behind.

Every process carries the variable `GPUFLEET_DEMO=<directory>` from its start, and hands it to its own children, so
that a fleet is recognised by what it was started for and not by the text of a command line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "GPUFLEET_DEMO"

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Ask the kernel for a TERM when our parent dies, be it by SIGKILL. Runs between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def running(
    command: Sequence[str], *, environment: Mapping[str, str], cwd: Path, log: Path, grace_seconds: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, so that Ctrl-C reaches it through us only; stop it at the end."""
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - nothing but one system call, and we have no other threads yet
        ) as process,
    ):
        try:
            yield process
        finally:
            stop(process, grace_seconds=grace_seconds)


def stop(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """TERM, wait, KILL, reap."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def marked(mark: str) -> list[int]:
    """The ids of all living processes of ours that were started for the directory `mark`."""
    wanted = f"{MARK}={mark}".encode()
    return [pid for pid in _own_processes() if wanted in _environment_of(pid)]


def end_all(mark: str, *, grace_seconds: float) -> list[int]:
    """End whatever is still there: TERM, wait, KILL. Answers what was found."""
    found = marked(mark)
    for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        for pid in marked(mark):
            _send(pid, number)
        if wait_until(lambda: not marked(mark), seconds=patience):
            break
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float, every: float = 0.05) -> bool:
    """Wait for a condition; False when the time ran out first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def _own_processes() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone meanwhile, or somebody else's
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
