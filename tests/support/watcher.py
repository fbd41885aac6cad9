"""Stands between two steps in the life of a task: whoever reaches a step of `agent.steps` waits here for our answer.

    with Watcher() as watcher:
        watcher.at(Step.POPPED, lambda pid: os.kill(pid, signal.SIGKILL))
        AgentProcess(server, state, environ=watcher.environ)
        watcher.wait(Step.POPPED)

What is done at a step is done once, while the process that has reached it stands still. `hold` lets it stand there:

        held = watcher.hold(Step.WORKSPACE_OPEN)
        held.wait()
        held.release()
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from support.agent import wait_for

from agent.steps import WATCHER, Step

Action = Callable[[int], object]


class Hold:
    """Whoever reaches one step next stands still there until `release`."""

    def __init__(self) -> None:
        self._is_there = threading.Event()
        self._may_go = threading.Event()

    def wait(self, *, seconds: float = 60.0) -> None:
        """Until somebody is there."""
        assert self._is_there.wait(seconds), "nobody came by"

    def release(self) -> None:
        self._may_go.set()

    def stand(self, _pid: int) -> None:
        self._is_there.set()
        self._may_go.wait()


class Watcher:
    """A socket that processes report to; `seen` is every step that was reached, in order, with the pid."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="steps-"))  # short: the path of a socket has 108 bytes
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._folder / "s"))
        self._listener.listen(64)
        self._actions: dict[Step, list[Action]] = {}
        self._done: set[Step] = set()
        self._errors: list[BaseException] = []
        self._holds: list[Hold] = []
        self._lock = threading.Lock()
        self.seen: list[tuple[Step, int]] = []

    @property
    def environ(self) -> dict[str, str]:
        return {WATCHER: str(self._folder / "s")}

    def __enter__(self) -> Watcher:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for hold in self._holds:
            hold.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._folder)
        if self._errors and error is None:
            raise self._errors[0]

    def at(self, step: Step, action: Action) -> None:
        """Do this with the pid of whoever reaches `step` next."""
        with self._lock:
            self._actions.setdefault(step, []).append(action)

    def hold(self, step: Step) -> Hold:
        """Have whoever reaches `step` next stand still there."""
        hold = Hold()
        self._holds.append(hold)
        self.at(step, hold.stand)
        return hold

    def wait(self, step: Step, *, seconds: float = 60.0, log: Path | None = None) -> None:
        """Until what is to be done at `step` has been done; `log` is shown if that does not come about."""
        try:
            wait_for(lambda: step in self._done or self._errors, seconds=seconds)
        except AssertionError:
            text = log.read_text()[-3000:] if log else ""
            raise AssertionError(f"{step} was not reached, only {self.names}\n{text}") from None
        if self._errors:
            raise self._errors[0]

    @property
    def names(self) -> list[str]:
        return [step.value for step, _ in self.seen]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            words = connection.makefile("r").readline().split()
            if len(words) != 2:  # killed while it told us
                return
            step, pid = Step(words[0]), int(words[1])
            with self._lock:
                self.seen.append((step, pid))
                waiting = self._actions.get(step)
                action = waiting.pop(0) if waiting else None
            if action is None:
                return
            try:
                action(pid)
            except BaseException as error:
                self._errors.append(error)
            self._done.add(step)
