"""From the start of the user's process to the end of its last descendant.

One `poll` over two descriptors drives it: the pipe the task writes into, and the pipe that signals of ours arrive
through (stop requests and SIGCHLD). Nothing here happens on a grid: the end of the process is noticed when the
kernel says so, and a line is in the segment file as soon as it has been read.

    running ──TERM asked──▶ TERM to the group ──grace──▶ KILL to everybody
       │                          │
       └──── main process ends ───┴──▶ TERM to what is left ──2 s──▶ KILL ──▶ nobody left, pipe at its end (or 1 s)

A process that the task left behind does not keep the run open: as a subreaper we are handed every orphan below us,
so "no children" is known exactly, and whoever merely holds the pipe open from elsewhere is not waited for.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.executor.console import Console
from agent.executor.fold import Folder
from agent.process import child
from agent.process.stop import StopSignal

#: What descendants of a task that has ended get between TERM and KILL.
LEFTOVER_GRACE_SECONDS = 2.0
#: How long a pipe is read that nobody of ours holds open any more.
LINGER_SECONDS = 1.0
#: A task that writes line by line as fast as it can is read at most this often: saves a write per line, costs 10 ms.
_PAUSE_SECONDS = 0.01
_UNKILLABLE_SECONDS = 5.0
_READ = 128 * 1024
_PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The user's process: what to start, where, with which environment, and what it is to hold open (leases)."""

    argv: tuple[str, ...]
    cwd: str
    environ: Mapping[str, str]
    umask: int = 0o022
    keep: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the user's process ended: exactly one of `code` and `signal` is set. `stopped`: it was asked to.

    That includes a process which TERM has ended before we could pass ours on: who kills a whole control group or host
    asks everybody at once.
    """

    code: int | None
    signal: int | None
    stopped: bool


def run_to_end(
    command: Command,
    console: Console,
    folder: Folder,
    *,
    stop: StopSignal,
    grace_seconds: float,
    announce: Callable[[int], None],
) -> Exit:
    """Start the command, keep its output, and come back when it and everything it started has ended.

    `announce` is told the pid before the program runs. OSError when the program cannot be started.
    """
    child.adopt_orphans()
    reading, writing = os.pipe()
    _widen(reading)
    os.set_blocking(reading, False)
    try:
        pid = child.spawn(
            command.argv,
            environ=command.environ,
            cwd=command.cwd,
            output=writing,
            umask=command.umask,
            announce=announce,
            keep=command.keep,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        watch = _Watch(pid, reading, console=console, folder=folder, stop=stop, grace_seconds=grace_seconds)
        return watch.until_the_end()
    finally:
        os.close(reading)


def _widen(pipe: int) -> None:
    """A larger pipe lets a burst of output through while we write; the host may not grant it."""
    import fcntl

    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return


class _Watch:
    """The state of `run_to_end` between two polls. Times are of the monotonic clock."""

    def __init__(
        self, pid: int, pipe: int, *, console: Console, folder: Folder, stop: StopSignal, grace_seconds: float
    ) -> None:
        self._pid = pid
        self._pipe = pipe
        self._console = console
        self._folder = folder
        self._stop = stop
        self._grace_seconds = grace_seconds
        self._pipe_open = True
        self._next_read = 0.0
        self._status: int | None = None
        self._ended_at = 0.0
        self._stopping = False
        self._kill_at: float | None = None
        self._killed = False
        self._told = False
        self._alone = False

    def until_the_end(self) -> Exit:
        poller = select.poll()
        poller.register(self._stop.fileno(), select.POLLIN)
        listening = False
        while not self._is_over(time.monotonic()):
            now = time.monotonic()
            if (listen := self._wants_output(now)) != listening:
                listening = listen
                if listen:
                    poller.register(self._pipe, select.POLLIN)
                else:
                    poller.unregister(self._pipe)
            ready = {fd for fd, _ in poller.poll(self._timeout(now) * 1000)}
            self._attend(ready, time.monotonic(), settled=listening and self._pipe not in ready)
        self._console.output(self._folder.close())
        code, number = child.exit_of(self._status or 0)
        ended_with_us = number == signal.SIGTERM and self._stop.requested
        return Exit(code=code, signal=number, stopped=self._stopping or ended_with_us)

    def _attend(self, ready: set[int], now: float, *, settled: bool) -> None:
        if self._stop.fileno() in ready:
            self._stop.clear()
        self._notice_ends(now)
        if self._pipe in ready or (self._status is not None and self._pipe_open):
            self._read(now)
        self._console.output(self._folder.progress(now, settled=settled))
        if self._console.is_blocked:
            self._console.retry()
        if self._stop.requested and not self._stopping:
            self._begin_stop(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill(now)

    def _wants_output(self, now: float) -> bool:
        return self._pipe_open and now >= self._next_read and not self._console.is_blocked

    def _timeout(self, now: float) -> float:
        """Seconds until something has to be done without anybody telling."""
        moments = [now + 60.0]
        if self._pipe_open:
            moments.append(self._next_read if self._next_read > now else moments[0])
        if self._kill_at is not None:
            moments.append(self._kill_at)
        if self._status is not None:
            moments.append(self._ended_at + LINGER_SECONDS if now < self._ended_at + LINGER_SECONDS else moments[0])
        if self._console.is_blocked:
            moments.append(now + 0.2)
        if (due := self._folder.due(now)) is not None:
            # A moment of silence is what tells a whole update from one that a read has cut.
            moments.append(now + max(due, 0.05))
        return max(0.0, min(moments) - now)

    def _is_over(self, now: float) -> bool:
        if self._status is None or not self._alone or self._console.is_blocked:
            return False
        return not self._pipe_open or now >= self._ended_at + LINGER_SECONDS

    def _read(self, now: float) -> None:
        """Everything that is in the pipe, up to a bound that lets signals have their turn."""
        for _ in range(16):
            try:
                data = os.read(self._pipe, _READ)
            except BlockingIOError:
                break
            if not data:
                self._pipe_open = False
                break
            self._console.output(self._folder.feed(data, now))
            if self._console.is_blocked or len(data) < _READ // 2:
                break
        if self._status is None:
            self._next_read = now + _PAUSE_SECONDS

    def _notice_ends(self, now: float) -> None:
        for pid, status in child.reap().items():
            if pid == self._pid:
                self._status = status
                self._ended_at = now
                self._next_read = 0.0
        if self._status is None:
            return
        alone = not child.has_children()
        if not alone and not self._told and not self._killed:
            self._told = True
            self._signal_everybody(signal.SIGTERM)
            deadline = now + LEFTOVER_GRACE_SECONDS
            self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)
        self._alone = alone or (self._killed and now >= self._ended_at + _UNKILLABLE_SECONDS)

    def _begin_stop(self, now: float) -> None:
        """A request that comes after the end of the process changes nothing: it ended by itself."""
        if self._status is None:
            self._stopping = True
            child.signal_group(self._pid, signal.SIGTERM)
            self._kill_at = now + self._grace_seconds

    def _kill(self, now: float) -> None:
        """Again every 50 ms until nobody is left: what forks while we look is found the next time."""
        self._killed = True
        self._signal_everybody(signal.SIGKILL)
        self._kill_at = now + 0.05

    def _signal_everybody(self, number: int) -> None:
        child.signal_group(self._pid, number)
        for pid in child.descendants(os.getpid()):
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
