"""A changed configuration comes into force while the agent, and its task, stay where they are.

On SIGHUP, or when asked through the control socket:

    1. A child process reads the command line and the files again, as they were read at the start (`agent.cli.reread`).
       It checks everything, and either says what is wrong or hands over a new set-up. Up to here nothing has changed.
    2. The agent leaves as on SIGTERM: nothing is half done, its task runs on.
    3. This process becomes the agent anew by exec: with the same pid, which a supervisor knows it by, and still holding
       its worker id, so that nobody else gets it in between. It adopts its task.

What cannot change this way is refused in step 1: the worker id and the state directory (they are who the agent is), and
the server while a task runs there. New credentials or another server are tried first, because an agent that is refused
would have to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.config.schema import Settings
from agent.errors import AgentError
from agent.files import read_json, write_json
from agent.models import Json, Succession, WorkerSetup
from agent.worker.becoming import become_daemon
from agent.worker.identity import Identity
from agent.worker.service import Supervisor
from agent.worker.signals import Stop, keep_for_later

log = logging.getLogger(__name__)

#: Reading a configuration takes less than a second, asking a server that does not answer a little more.
READ_SECONDS = 60.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How the last reading went: when (epoch seconds); if it failed, why and with which exit code."""

    at: float
    error: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """What this process is to become: the set-up and the environment of the next agent.

    `late` are signals that came when this one could not heed them any more: they are for the next one.
    """

    setup: WorkerSetup
    environment: Mapping[str, str]
    late: Sequence[int] = ()


class Reload:
    """Reads the configuration again, for one agent. `has_runs` says whether a run is still to be seen through."""

    def __init__(
        self,
        setup: WorkerSetup,
        identity: Identity,
        supervisor: Supervisor,
        stop: Stop,
        *,
        environ: Mapping[str, str],
    ) -> None:
        self._setup = setup
        self._identity = identity
        self._supervisor = supervisor
        self._stop = stop
        self._environ = environ
        self._turn = asyncio.Lock()
        self._successor: Successor | None = None
        self.last: Attempt | None = None
        if setup.succession is not None:
            self.last = Attempt(at=time.time())
            if setup.succession.reread:
                stop.reread.set()

    async def on_request(self) -> None:
        """Each time the signal comes, until cancelled."""
        while True:
            await self._stop.reread.wait()
            if self._stop.anew.is_set():
                return  # the file may have changed since it was read: the next agent reads it again
            self._stop.reread.clear()
            with contextlib.suppress(AgentError):  # it is logged
                await self.read_again()

    async def read_again(self, config: Json | None = None) -> None:
        """Have the agent start anew with what is configured now; AgentError, and no change at all, if that is wrong.

        `config` ({"name", "text"}) is a configuration file to be read in place of the one that the command line names.
        """
        async with self._turn:
            self._supervisor.reloading()
            try:
                if self._stop.anew.is_set():
                    raise AgentError("the agent is just beginning anew", hint="Try again in a moment.")
                if self._stop.leave.is_set():
                    raise AgentError("the agent is leaving")
                found = await self._read(config or self._setup.given_config)
            except AgentError as error:
                self.last = Attempt(at=time.time(), error=error.message, exit_code=error.exit_code)
                log.error("the configuration stays as it was: %s", error, extra={"action": "reload"})
                if self._supervisor.is_ready:
                    self._supervisor.ready()
                raise
            self.accept(found)

    def accept(self, successor: Successor) -> None:
        """Leave, to become this one."""
        log.info("the configuration was read again: starting anew with it", extra={"action": "reload"})
        self._successor = successor
        self._stop.wish_anew()

    def successor(self, *, has_runs: bool) -> Successor | None:
        """What to become now that everything else is over; None if the agent is to end."""
        found = self._successor
        if found is None or not self._stop.anew.is_set() or (self._stop.drain.is_set() and not has_runs):
            return None
        setup = found.setup
        if has_runs and is_moved(self._setup, setup):  # a task was taken while the agent was leaving
            log.error("the configuration stays as it was: a task runs on its server", extra={"action": "reload"})
            setup = self._setup
        late = keep_for_later(asyncio.get_running_loop())
        return replace(found, setup=replace(setup, succession=self._succession()), late=late)

    def _succession(self) -> Succession:
        identity = self._identity
        return Succession(
            worker_id=identity.worker_id,
            slot=identity.slot,
            descriptor=identity.descriptor,
            was_ready=self._supervisor.is_ready,
            reread=self._stop.reread.is_set(),
        )

    async def _read(self, config: Json | None) -> Successor:
        if not self._setup.arguments:
            raise AgentError("this agent was not started by `clearml-agent daemon`: it has nothing to read again")
        folder = self._identity.record.parent
        request, answer = (folder / f"setup.{os.getpid()}.{kind}.json" for kind in ("request", "answer"))
        try:
            write_json(
                request, {"worker_id": self._identity.worker_id, "setup": self._setup.to_json(), "config": config}
            )
            code = await self._run_child([str(request), str(answer)])
            return _successor_from(read_json(answer), code)
        except OSError as error:
            raise AgentError(f"the configuration cannot be read again: {error}") from error
        finally:
            request.unlink(missing_ok=True)
            answer.unlink(missing_ok=True)

    async def _run_child(self, arguments: list[str]) -> int:
        """Its exit code. What it warns of goes where our log goes. It is ended if it takes too long, or we do."""
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.cli.reread", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=original_environment(self._environ, self._setup),
            umask=self._setup.task_umask,
            start_new_session=True,  # a Ctrl-C is for us
        )
        try:
            deadline = time.monotonic() + READ_SECONDS
            while child.poll() is None:
                if time.monotonic() > deadline:
                    raise AgentError(f"the configuration was not read within {READ_SECONDS:.0f} s")
                await asyncio.sleep(LOOK_SECONDS)
            return child.returncode
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


def _successor_from(answer: Json | None, code: int) -> Successor:
    if answer is None:
        raise AgentError(f"reading the configuration ended with exit code {code}", hint="The log has more.")
    if "error" in answer:
        error = AgentError(str(answer["error"]), hint=str(answer.get("hint") or ""))
        error.exit_code = int(answer.get("exit_code") or 1)
        raise error
    return Successor(setup=WorkerSetup.from_json(answer["setup"]), environment=answer["environment"])


def original_environment(environ: Mapping[str, str], setup: WorkerSetup) -> dict[str, str]:
    """The environment that the command was called with: ours, and what the configuration has changed in it undone."""
    undone = {name: value for name, value in environ.items() if name not in setup.environment_before}
    return {**undone, **{name: value for name, value in setup.environment_before.items() if value is not None}}


def is_moved(old: WorkerSetup, new: WorkerSetup) -> bool:
    """Whether another server is meant, where the ids of our tasks mean nothing."""
    return server_of(old) != server_of(new)


def server_of(setup: WorkerSetup) -> str:
    """The address of the API server."""
    return Settings.from_json(setup.settings).api.api_server


def become(successor: Successor) -> None:
    """Replace this process by the next agent. Does not return."""
    for number in successor.late:
        signal.raise_signal(number)  # waits until the next agent listens
    state = Settings.from_json(successor.setup.settings).agent.state_dir
    become_daemon(Path(state).expanduser() / "workers", successor.setup, successor.environment)
