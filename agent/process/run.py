"""Running a command to its end: git, uv, pip, a probe of an interpreter.

One place, so that every command gets the same treatment: an argument list, an environment somebody composed on
purpose, a session of its own, a deadline, its output captured (and shown while it runs when it takes long), TERM,
grace and KILL for the whole group when time is up or a stop was asked for, and one good error when it fails.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.errors import AgentError
from agent.process import child
from agent.process.stop import StopRequested, StopSignal

_READ = 65536
_GRACE_SECONDS = 3.0
_TAIL_LINES = 40


class CommandFailed(AgentError):
    """A command could not be started, took too long, or ended with another exit code than 0."""

    def __init__(self, message: str, *, output: str = "", returncode: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output
        self.returncode = returncode


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ran: `output` is both streams in the order they were written, `text` is standard output alone."""

    argv: tuple[str, ...]
    returncode: int
    output: str
    text: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """How commands of one run are started: a value that is passed to whoever needs to run one.

    `show` receives lines of commands that take longer than `quiet_seconds`; `redact` is applied to every text
    that leaves this module.
    """

    environ: Mapping[str, str]
    cwd: str
    stop: StopSignal
    show: Callable[[str], None] = lambda line: None
    redact: Callable[[str], str] = lambda text: text
    quiet_seconds: float = 3.0

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        deadline_seconds: float = 3600.0,
        check: bool = True,
    ) -> Completed:
        """Run `argv`; CommandFailed unless it exits 0 (with `check`), StopRequested when a stop comes in between.

        `environ` is laid over the environment of all commands; an empty value removes a variable.
        """
        merged = {**self.environ, **(environ or {})}
        done = _run(self, argv, {k: v for k, v in merged.items() if v}, cwd or self.cwd, stdin, deadline_seconds)
        if check and done.returncode != 0:
            how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
            raise CommandFailed(
                f"{self._name(argv)} ended with {how} after {done.seconds:.1f} s",
                output=self.redact(done.output),
                returncode=done.returncode,
                hint=self.redact(tail(done.output)),
            )
        return done

    def _name(self, argv: Sequence[str]) -> str:
        return f"`{self.redact(spelled(argv))}`"


def spelled(argv: Sequence[str]) -> str:
    """A command as a person would type it, the program without its folder; long ones end in an ellipsis."""
    from shlex import join

    text = join([os.path.basename(argv[0]), *argv[1:]])
    return text if len(text) <= 200 else text[:197] + "..."


def tail(output: str, lines: int = _TAIL_LINES) -> str:
    """The last lines of an output, with a word about what was left out."""
    every = output.rstrip().splitlines()
    if len(every) <= lines:
        return "\n".join(every)
    return "\n".join([f"... {len(every) - lines} lines before these ...", *every[-lines:]])


def _run(
    commands: Commands,
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    stdin: bytes | None,
    deadline_seconds: float,
) -> Completed:
    commands.stop.check()
    started = time.monotonic()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    source = _as_descriptor(stdin)
    try:
        pid = child.spawn(
            argv, environ=environ, cwd=cwd, output=out_write, errors=err_write, stdin=source, session=True
        )
    except OSError as error:
        os.close(out_read)
        os.close(err_read)
        raise CommandFailed(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        os.close(out_write)
        os.close(err_write)
        if source is not None:
            os.close(source)
    return _attend(commands, argv, pid, (out_read, err_read), started, deadline_seconds)


def _as_descriptor(data: bytes | None) -> int | None:
    """Input as a file in memory, so that a command that does not read it cannot block us."""
    if data is None:
        return None
    fd = os.memfd_create("input")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _attend(
    commands: Commands, argv: Sequence[str], pid: int, streams: tuple[int, int], started: float, limit: float
) -> Completed:
    captured, printed = bytearray(), bytearray()
    progress = _Progress(commands, started)
    poller = select.poll()
    for fd in (*streams, commands.stop.fileno()):
        poller.register(fd, select.POLLIN)
    open_streams = set(streams)
    status: int | None = None
    try:
        while open_streams and status is None:
            left = limit - (time.monotonic() - started)
            if left <= 0:
                child.end_group(pid, grace_seconds=_GRACE_SECONDS)
                pid = 0
                raise CommandFailed(
                    f"{commands._name(argv)} was stopped after {limit:.0f} s without an end",
                    output=commands.redact(captured.decode(errors="replace")),
                    hint=commands.redact(tail(captured.decode(errors="replace"))),
                )
            for fd, _ in poller.poll(min(left, 0.5) * 1000):
                if fd == commands.stop.fileno():
                    commands.stop.clear()
                    commands.stop.check()
                    status = _ended(pid)
                    continue
                data = os.read(fd, _READ)
                if not data:
                    poller.unregister(fd)
                    open_streams.discard(fd)
                    continue
                captured += data
                if fd == streams[0]:
                    printed += data
                progress.feed(data)
        # The end of the command decides, not the end of the pipe: a daemon it left behind may keep that open.
        _drain(open_streams, captured, printed, streams[0])
        if status is None:
            status = _wait(commands, pid, started + limit)
        pid = 0
    except StopRequested:
        if pid:
            child.end_group(pid, grace_seconds=_GRACE_SECONDS)
            pid = 0
        raise
    finally:
        if pid:
            child.end_group(pid, grace_seconds=0)
        for fd in streams:
            os.close(fd)
    code, number = child.exit_of(status)
    return Completed(
        argv=tuple(argv),
        returncode=code if code is not None else -(number or signal.SIGKILL),
        output=captured.decode(errors="replace"),
        text=printed.decode(errors="replace"),
        seconds=time.monotonic() - started,
    )


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return status if found else None


def _wait(commands: Commands, pid: int, deadline: float) -> int:
    """Both pipes are closed; the end itself is a moment away, or the command closed them on purpose."""
    while (status := _ended(pid)) is None:
        if time.monotonic() > deadline:
            return child.end_group(pid, grace_seconds=_GRACE_SECONDS)
        poller = select.poll()
        poller.register(commands.stop.fileno(), select.POLLIN)
        poller.poll(20)
        commands.stop.clear()
        if commands.stop.requested:
            child.end_group(pid, grace_seconds=_GRACE_SECONDS)
            raise StopRequested
    return status


def _drain(streams: set[int], captured: bytearray, printed: bytearray, stdout: int) -> None:
    for fd in streams:
        os.set_blocking(fd, False)
        try:
            while data := os.read(fd, _READ):
                captured += data
                if fd == stdout:
                    printed += data
        except BlockingIOError:
            pass


class _Progress:
    """Shows what a command says once it has taken longer than people like to wait in silence."""

    def __init__(self, commands: Commands, started: float) -> None:
        self._show = commands.show
        self._redact = commands.redact
        self._from = started + commands.quiet_seconds
        self._pending = b""

    def feed(self, data: bytes) -> None:
        self._pending += data
        if time.monotonic() < self._from:
            return
        *lines, self._pending = self._pending.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if text := line.decode(errors="replace").strip():
                self._show(self._redact(text))
