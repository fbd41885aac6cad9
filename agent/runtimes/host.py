"""Executors as processes of this host, each in its own session so that it outlives the daemon.

The executor holds an flock on `executor.lock` for its whole life: the daemon takes the lock, hands the descriptor over,
and closes its own copy. Hence a crash of the daemon at any point leaves no doubt whether an executor lives, whatever
pids were reused meanwhile. The end is noticed through a pidfd (pidfd_open(2)), which works the same for our own child
and for one that a previous daemon started.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.files import read_json
from agent.process.procfs import start_ticks_of


class HostProcess:
    """An executor by its pidfd; `child` is set if it is our own child and has to be reaped."""

    def __init__(self, run: Path, pid: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.run = run
        self.pid = pid
        self._pidfd = pidfd
        self._child = child

    async def wait(self) -> None:
        if self._pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        if self._child is not None:
            self._child.wait()
        else:
            _reap(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        kill_user_process(self.run)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


class HostRuntime:
    """Starts `python -m agent.executor RUN` (or another command, for tests) on this host.

    Without `-OO`: an installer compiles bytecode for the plain level only, and an executor must not compile itself anew
    for every task where it may not write beside its source.
    """

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-I", "-m", "agent.executor")) -> None:
        self._command = command

    async def launch(self, run: Path, environ: Mapping[str, str], *, keep: Sequence[int] = ()) -> HostProcess:
        lock = os.open(run / "executor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(run / "executor.log", "ab") as log:
                child = subprocess.Popen(
                    [*self._command, str(run)],
                    cwd=run,
                    env=dict(environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock, *keep),
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        return HostProcess(run, child.pid, os.pidfd_open(child.pid), child)

    async def attach(self, run: Path) -> HostProcess | None:
        while _is_locked(run / "executor.lock"):  # it lives, and says who it is first of all
            launch = read_json(run / "launch.json")
            if launch:
                return _attached(run, int(launch["pid"]))
            await asyncio.sleep(0.05)
        return None


def _attached(run: Path, pid: int) -> HostProcess | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if not _is_locked(run / "executor.lock"):  # it ended before the pidfd was open: the pid may be somebody else's
        _reap(pidfd)
        os.close(pidfd)
        return None
    return HostProcess(run, pid, pidfd, None)


def _reap(pidfd: int) -> None:
    """Collect an executor that was started by the agent that this process was before a reload: it is our child."""
    with contextlib.suppress(OSError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def kill_user_process(run: Path) -> bool:
    """End the process group of a task whose executor is gone; True if there was one to end."""
    user = read_json(run / "user.json")
    if not user or start_ticks_of(int(user["pid"])) != int(user["start_ticks"]):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(int(user["pgid"]), signal.SIGKILL)
        return True
    return False
