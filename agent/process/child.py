"""Starting a program and ending it, with nothing between us and the system calls.

The executor is spawned for every task, and `subprocess` costs it several milliseconds of import before the user's
first line; one `fork` in a small single-threaded process costs a fraction of one. What `spawn` adds to a bare
fork and exec is what is easily forgotten: signal dispositions and the mask are reset (Python ignores SIGPIPE, and
that would be inherited through exec), standard input is /dev/null unless given, every other descriptor stays
behind, and a program that cannot be started is an OSError here and not an exit code 127 there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Signals that a parent may have set to "ignore", which a program would inherit.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)
_PR_SET_CHILD_SUBREAPER = 36


def spawn(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: str,
    output: int,
    stdin: int | None = None,
    errors: int | None = None,
    session: bool = False,
    umask: int | None = None,
    announce: Callable[[int], None] | None = None,
    keep: Sequence[int] = (),
) -> int:
    """Start `argv` in a process group of its own (or a session) and answer its pid.

    `output` is the descriptor that becomes standard output and standard error; `errors` takes the latter apart.
    `argv[0]` with a slash is used as it is (relative to `cwd`), without one it is looked up on the PATH of `environ`.
    `announce` is called with the pid while the new process still waits: the program starts only if it returns, so
    what it writes down cannot miss a program that runs. `keep` are inheritable descriptors that the program gets, too.
    """
    reading, writing = os.pipe()
    gate, go = os.pipe()
    wanted = _Program(
        argv=list(argv),
        environ=dict(environ),
        cwd=cwd,
        standard=(stdin, output, output if errors is None else errors),
        session=session,
        umask=umask,
        keep=frozenset(keep),
    )
    try:
        pid = os.fork()
        if pid == 0:
            os.close(go)
            _become(wanted, gate, writing)
    finally:
        os.close(writing)
        os.close(gate)
    try:
        if not session:
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
        if announce is not None:
            announce(pid)
        os.write(go, b"g")
    except BaseException:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(go)
    try:
        problem = os.read(reading, 64)
    finally:
        os.close(reading)
    if problem:
        os.waitpid(pid, 0)
        number = int(problem)
        raise OSError(number, os.strerror(number), argv[0])
    return pid


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    argv: list[str]
    environ: dict[str, str]
    cwd: str
    standard: tuple[int | None, int, int]
    session: bool
    umask: int | None
    keep: frozenset[int]


def _become(wanted: _Program, gate: int, problem: int) -> None:
    """The child's half of `spawn`: never returns."""
    number = errno.ENOENT
    try:
        if wanted.session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        if wanted.umask is not None:
            os.umask(wanted.umask)
        os.chdir(wanted.cwd)
        if os.read(gate, 1) != b"g":
            os._exit(127)  # whoever wanted this program is gone
        sources = [os.open(os.devnull, os.O_RDONLY) if fd is None else fd for fd in wanted.standard]
        # Lift them out of the way first: one of them may itself be 0, 1 or 2.
        for target, fd in enumerate([_above_standard(fd) for fd in sources]):
            os.dup2(fd, target)
        _close_all_but({problem, *wanted.keep})
        signal.set_wakeup_fd(-1)
        for name in _RESET:
            signal.signal(name, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for path in _candidates(wanted.argv[0], wanted.environ):
            try:
                os.execve(path, wanted.argv, wanted.environ)  # noqa: S606 (no shell is the point)
            except OSError as error:
                # Of several attempts report the most telling: "permission denied" in one folder of the PATH says
                # more than "no such file" in all the others.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    number = error.errno or errno.ENOEXEC
    except OSError as error:
        number = error.errno or errno.ENOEXEC
    finally:
        try:
            os.write(problem, str(number).encode())
        finally:
            os._exit(127)


def _close_all_but(kept: Collection[int]) -> None:
    """What we open is not inherited anyway; this is for what whoever started us left open."""
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)


def _above_standard(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _candidates(program: str, environ: Mapping[str, str]) -> Iterator[str]:
    if "/" in program:
        yield program
        return
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if folder:
            yield f"{folder}/{program}"


def exit_of(status: int) -> tuple[int | None, int | None]:
    """A wait status as (exit code, signal): exactly one of them is not None."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.waitstatus_to_exitcode(status), None


def signal_group(pgid: int, number: int) -> bool:
    """Send a signal to a whole process group; False when there is nobody left to hear it."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_group(pid: int, *, grace_seconds: float) -> int:
    """TERM to the group that `pid` leads, grace, KILL, reap; answers the wait status of `pid`."""
    signal_group(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() >= deadline:
            signal_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.01)
    signal_group(pid, signal.SIGKILL)
    return status


def adopt_orphans() -> bool:
    """Become the one whom descendants fall to when their parent dies (prctl(2), PR_SET_CHILD_SUBREAPER).

    Without it a task's double-forked helper would land under init, out of reach. `_ctypes` is used directly, since
    the package around it triples the import; where that private door is closed the public one is taken.
    """
    try:
        import _ctypes

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return int(_ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))) == 0
    except (ImportError, AttributeError, TypeError):
        import ctypes

        return int(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def descendants(pid: int) -> tuple[int, ...]:
    """All living processes below `pid`, nearest first; zombies count as gone."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] != b"Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        found.extend(level)
    return tuple(found)


def reap() -> dict[int, int]:
    """Collect every child that has ended: pid to wait status. Adopted orphans are among them."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def has_children() -> bool:
    """Whether any child, adopted ones included, has not been reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
