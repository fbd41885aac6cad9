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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.files import read_json
from agent.process.child import signal_group
from agent.process.environ import RUN
from agent.process.procfs import processes_with, start_ticks_of
from agent.wire import whole

#: A process that does not die of KILL within this time waits for a device; nothing can be done about it.
UNKILLABLE_SECONDS = 5.0
#: An executor writes its pid first of all; one that has not done so by then never will (a disk that was full).
SAY_SECONDS = 10.0


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
        end_leftovers(self.run)

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

    async def is_alive(self, run: Path) -> bool:
        return _is_locked(run / "executor.lock")

    async def attach(self, run: Path) -> HostProcess | None:
        began, pause = time.monotonic(), 0.05
        while _is_locked(run / "executor.lock"):  # it lives, and says who it is first of all
            pid = _launched(run)
            if not pid and time.monotonic() - began > SAY_SECONDS:
                pause = 1.0
                pid = await asyncio.to_thread(_holder_of, run / "executor.lock")
            if pid:
                return _attached(run, pid)
            await asyncio.sleep(pause)
        return None

    async def end_leftovers(self, run: Path) -> bool:
        return await asyncio.to_thread(end_leftovers, run)


def _launched(run: Path) -> int:
    """The executor's pid by its own word; 0 if it has not said it, or not so that it can be believed."""
    said = read_json(run / "launch.json") or {}
    pid = whole(said.get("pid")) or 0
    return pid if pid > 1 and start_ticks_of(pid) == said.get("start_ticks") else 0


def _holder_of(lock: Path) -> int:
    """Who of our processes holds a file open; 0 if there is none. Only the executor inherits the lock."""
    target, own = os.path.realpath(lock), os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        with contextlib.suppress(OSError):
            folder = f"/proc/{name}/fd"
            if any(_target(f"{folder}/{fd}") == target for fd in os.listdir(folder)):
                return int(name)
    return 0


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


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


def end_leftovers(run: Path) -> bool:
    """Kill what a run whose executor is gone has left: the process group of the task, and whoever carries the run's
    mark in its environment, wherever it has moved to. True if there was somebody.
    """
    found = _kill_group(run)
    deadline = time.monotonic() + UNKILLABLE_SECONDS
    while (left := processes_with(RUN, os.path.abspath(run))) and time.monotonic() < deadline:
        found = True
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)  # who forks while we look is found the next time
    return found


def _kill_group(run: Path) -> bool:
    user = read_json(run / "user.json") or {}
    pid = whole(user.get("pid")) or 0
    if pid <= 1 or pid != user.get("pgid") or start_ticks_of(pid) != user.get("start_ticks"):
        return False
    return signal_group(pid, signal.SIGKILL)
