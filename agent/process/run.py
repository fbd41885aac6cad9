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
from agent.process.stop import StopSignal

_READ = 65536
_GRACE_SECONDS = 3.0
_TAIL_LINES = 40
_LAST_READS = 64  # a pipe holds a megabyte at most; whoever writes on without end is not waited for


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
        clean = {name: value for name, value in merged.items() if value}
        done = self._to_the_end(argv, cwd or self.cwd, clean, stdin=stdin, deadline_seconds=deadline_seconds)
        if check and done.returncode != 0:
            how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
            raise CommandFailed(
                f"{self.name_of(argv)} ended with {how} after {done.seconds:.1f} s",
                output=self.redact(done.output),
                returncode=done.returncode,
                hint=self.redact(tail(done.output)),
            )
        return done

    def _to_the_end(
        self, argv: Sequence[str], cwd: str, environ: Mapping[str, str], *, stdin: bytes | None, deadline_seconds: float
    ) -> Completed:
        self.stop.check()
        started = time.monotonic()
        output, errors = os.pipe(), os.pipe()
        try:
            pid = _start(argv, cwd, environ, stdin=stdin, output=output[1], errors=errors[1])
            os.close(output[1])
            os.close(errors[1])
            running = _Running(self, argv, pid, (output[0], errors[0]))
            status = running.watch(started, deadline_seconds)
        finally:
            for fd in (output[0], errors[0]):
                os.close(fd)
        code, number = child.exit_of(status)
        return Completed(
            argv=tuple(argv),
            returncode=code if code is not None else -(number or signal.SIGKILL),
            output=running.output.decode(errors="replace"),
            text=running.text.decode(errors="replace"),
            seconds=time.monotonic() - started,
        )

    def name_of(self, argv: Sequence[str]) -> str:
        """A command for messages, with nothing secret in it."""
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


def _start(
    argv: Sequence[str], cwd: str, environ: Mapping[str, str], *, stdin: bytes | None, output: int, errors: int
) -> int:
    source = None if stdin is None else _in_memory(stdin)
    try:
        return child.spawn(argv, environ=environ, cwd=cwd, output=output, errors=errors, stdin=source, session=True)
    except OSError as error:
        os.close(output)
        os.close(errors)
        raise CommandFailed(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        if source is not None:
            os.close(source)


def _in_memory(data: bytes) -> int:
    """Input as a file in memory, so that a command that does not read it cannot block us."""
    fd = os.memfd_create("input")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class _Running:
    """A command between its start and its end. `output` is both of its streams, `text` the first one alone."""

    def __init__(self, commands: Commands, argv: Sequence[str], pid: int, streams: tuple[int, int]) -> None:
        self._commands = commands
        self._argv = argv
        self._pid = pid
        self._stdout = streams[0]
        self._open = set(streams)
        self._status: int | None = None
        self._pending = b""
        self._show_from = time.monotonic() + commands.quiet_seconds
        self.output = bytearray()
        self.text = bytearray()

    def watch(self, started: float, limit: float) -> int:
        """The wait status. The end of the command decides, not the end of the pipes: a daemon may keep those."""
        try:
            while self._status is None:
                left = started + limit - time.monotonic()
                if left <= 0:
                    raise self._too_long(limit)
                self._attend(left)
            self._drain()
        finally:
            if self._status is None:
                self._status = child.end_group(self._pid, grace_seconds=_GRACE_SECONDS)
        return self._status

    def _attend(self, left: float) -> None:
        """One poll. SIGCHLD wakes it where a handler is installed; where none is, half a second does."""
        stop = self._commands.stop
        poller = select.poll()
        for fd in (*self._open, stop.fileno()):
            poller.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(min(left, 0.5 if self._open else 0.02) * 1000)}
        if stop.fileno() in ready:
            stop.clear()
        stop.check()
        for fd in ready & self._open:
            self._read(fd)
        if stop.fileno() in ready or not ready & self._open:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None

    def _read(self, fd: int) -> None:
        data = os.read(fd, _READ)
        if not data:
            self._open.discard(fd)
            return
        self._keep(fd, data)
        self._pending += data
        if time.monotonic() >= self._show_from:
            self._show()

    def _keep(self, fd: int, data: bytes) -> None:
        self.output += data
        if fd == self._stdout:
            self.text += data

    def _drain(self) -> None:
        for fd in self._open:
            os.set_blocking(fd, False)
            try:
                for _ in range(_LAST_READS):
                    if not (data := os.read(fd, _READ)):
                        break
                    self._keep(fd, data)
            except BlockingIOError:
                continue

    def _show(self) -> None:
        """What a command says, once it has taken longer than people like to wait in silence."""
        *lines, self._pending = self._pending.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if text := line.decode(errors="replace").strip():
                self._commands.show(self._commands.redact(text))

    def _too_long(self, limit: float) -> CommandFailed:
        said = self._commands.redact(self.output.decode(errors="replace"))
        name = self._commands.name_of(self._argv)
        return CommandFailed(f"{name} was stopped after {limit:.0f} s without an end", output=said, hint=tail(said))
