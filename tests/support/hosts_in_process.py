"""Agents on hosts of a few lines, for tests that take thousands of steps: the real code of claim, run and recovery with
real sockets and run directories, and an executor that does what it is told at once.

A `SmallHost` has a disk and executors, which survive its agent. The agent is coroutines of the caller's event loop; it
dies at the step that it is told to die at, or by `crash` while it watches a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.runs import run_context
from support.settings import settings_for

from agent import steps
from agent.api import client as api_client
from agent.api import tasks, workers
from agent.api.client import AsyncClient, Call, Client
from agent.api.queues import Queue
from agent.api.server import Features
from agent.api.transport import Abort, Reply, Transport
from agent.errors import AgentError, ReplyLost
from agent.files import write_json
from agent.models import Outcome
from agent.runner import abort, claim, give_back, report, start
from agent.runner.claim import Claimant, Source, claim_task, first_waiting
from agent.runner.context import RunContext, Running
from agent.runner.lifecycle import launch, see_through
from agent.runner.recovery import recover
from agent.runner.rundir import Claim, Runs
from agent.steps import Step

#: The calls that change what becomes of a task: those whose replies are worth losing.
DECIDING = (
    "queues.get_next_task",
    "tasks.started",
    "tasks.enqueue",
    "tasks.completed",
    "tasks.failed",
    "tasks.stopped",
)
DEADLINE_SECONDS = 20.0

T = TypeVar("T")


class Died(BaseException):
    """The agent is gone, in the middle of what it did. Nothing of the agent catches this."""


_host: ContextVar[SmallHost | None] = ContextVar("host", default=None)


def _reached(step: Step) -> None:
    """Of a coroutine that works for an agent."""
    if (host := _host.get()) is not None:
        host.reached(step)


@contextlib.contextmanager
def steps_and_pauses() -> Iterator[None]:
    """Steps are ours to watch, and what waits for others waits shortly."""

    def pauses(first: float = 0.0, longest: float = 0.0) -> Iterator[float]:
        while True:
            yield 0.01

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_watcher", "here")
        patch.setattr(steps, "_stand_still", _reached)
        patch.setattr(abort, "SECOND_LOOK_SECONDS", 0.01)
        patch.setattr(claim, "OTHERS_START_SECONDS", 0.0)  # nobody is in the middle of a claim when another one looks
        for module in (api_client, start, report, give_back):
            patch.setattr(module, "growing_pauses", pauses)
        yield


class LossyTransport(Transport):
    """Loses the reply to the next deciding call (of this endpoint, if there is one), "before" or "after" the server
    acted.
    """

    lose_next = ""
    lose_call = ""

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, timeout: float, abort: Abort | None = None
    ) -> Reply:
        when, call = self.lose_next, path.lstrip("/")
        is_deciding = call == self.lose_call if self.lose_call else call in DECIDING
        if not when or not is_deciding:
            return super().post(path, body, headers, timeout=timeout, abort=abort)
        self.lose_next = ""
        if when == "after":
            super().post(path, body, headers, timeout=timeout, abort=abort)
        raise ReplyLost(f"lost {when} it acted: {path}")


class PatientClient(AsyncClient):
    """Lets something happen between a lost reply and what its sender does about it."""

    def __init__(self, client: Client, host: SmallHost) -> None:
        super().__init__(client)
        self._host = host

    async def send(self, call: Call[T]) -> T:
        try:
            return await super().send(call)
        except ReplyLost:
            meanwhile, self._host.meanwhile = self._host.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            raise


class SmallExecutor:
    """Holds the lock of its run directory as long as it lives, and so does what it stands for: a user's process."""

    def __init__(self, host: SmallHost, run: Path) -> None:
        self._host = host
        self.run = run
        self.task = run.name.rpartition(".")[0]
        self.is_user_alive = True
        self._gone = asyncio.Event()
        self._lock = os.open(run / "executor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_json(run / "launch.json", {"pid": os.getpid(), "start_ticks": 0})

    @property
    def is_alive(self) -> bool:
        return not self._gone.is_set()

    def end(self, outcome: Outcome | None) -> None:
        """With an outcome, the user's process has ended; without, the executor was killed and leaves it behind."""
        if not self.is_alive:
            return
        if outcome is not None:
            self.is_user_alive = False
            if self.run.is_dir():
                write_json(self.run / "outcome.json", outcome.to_json())
        fate = "died" if outcome is None else "stopped" if outcome.stopped else f"exit {outcome.exit_code}"
        self._host.ended(self, fate)
        os.close(self._lock)
        self._gone.set()

    # --- agent.runtimes.base.Handle

    async def wait(self) -> None:
        await self._gone.wait()

    def stop(self) -> None:
        self.end(Outcome(phase="run", signal=15, stopped=True))

    def kill(self) -> None:
        self.end(None)
        self.is_user_alive = False


class SmallRuntime:
    """agent.runtimes.base.Runtime: the executors of one host, by run directory."""

    def __init__(self, host: SmallHost) -> None:
        self._host = host

    async def launch(self, run: Path, environ: Mapping[str, str], *, keep: Sequence[int] = ()) -> SmallExecutor:
        return self._host.begun(SmallExecutor(self._host, run))

    async def attach(self, run: Path) -> SmallExecutor | None:
        return next((one for one in self._host.executors if one.run == run and one.is_alive), None)

    async def end_leftovers(self, run: Path) -> bool:
        left = [one for one in self._host.executors if one.run == run and one.is_user_alive]
        for executor in left:
            executor.is_user_alive = False
        return bool(left)


@dataclass
class SmallHost:
    """One host with one agent. `begun` and `ended` are told of every executor."""

    name: str
    folder: Path
    server: Any
    loop: asyncio.AbstractEventLoop
    features: Features
    on_begin: Callable[[SmallExecutor], None]
    on_end: Callable[[SmallExecutor, str], None]
    executors: list[SmallExecutor] = field(default_factory=list)
    is_up: bool = False
    dies_at: Step | None = None
    passed: list[Step] = field(default_factory=list)
    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    def __post_init__(self) -> None:
        self.runs = Runs(self.folder / "runs")
        self.settings = settings_for(
            self.server.api,
            key=self.server.access_key,
            secret=self.server.secret_key,
            state=self.folder,
            status_report_interval_seconds=3600.0,
            task_ping_interval_seconds=0.0,
        )
        self.transport = LossyTransport(self.settings.api.api_server)
        self._client = Client(self.transport, self.settings.api, name=self.name)
        self._watching: list[asyncio.Task[None]] = []
        self._doing: asyncio.Task[None]

    def begun(self, executor: SmallExecutor) -> SmallExecutor:
        self.executors.append(executor)
        self.on_begin(executor)
        return executor

    def ended(self, executor: SmallExecutor, fate: str) -> None:
        self.on_end(executor, fate)

    @property
    def is_busy(self) -> bool:
        """Whether the agent sees a task through; it has one slot."""
        return bool(self._watching)

    @property
    def running(self) -> list[SmallExecutor]:
        return [one for one in self.executors if one.is_alive]

    # --- what the agent does

    def start(self, *, dies_at: Step | None = None) -> None:
        """Start the agent: it settles what was left, and watches what lives."""
        self.is_up = True
        self._do(self._recover(), dies_at)

    def take(self, queue: Queue, *, dies_at: Step | None = None) -> None:
        """Take the first task of the queue, if there is one, and launch it."""
        self._do(self._take(queue), dies_at)

    def settle(self, *, dies_at: Step | None = None) -> None:
        """Have the agent see what there is to see: ends, and wishes that its task should end."""
        self._do(self._until_quiet(), dies_at)

    async def visit(self, queue: Queue) -> None:
        """Take a task while another agent is in the middle of something."""

        async def work() -> None:
            _host.set(self)
            await self._take(queue)

        if self.is_up and not self.is_busy and self._doing.done():
            await asyncio.create_task(work())

    def reached(self, step: Step) -> None:
        self.passed.append(step)
        if step is self.dies_at:
            self.dies_at = None
            self._doing.cancel()
            raise Died(step)

    def crash(self) -> None:
        """kill -9 of the agent. What it has started goes on."""
        self.is_up = False
        watching, self._watching = self._watching, []
        for watch in watching:
            watch.cancel()
        self.transport.lose_next, self.meanwhile = "", None
        self.loop.run_until_complete(_gone(watching))

    def close(self) -> None:
        self.crash()
        for executor in self.executors:
            executor.end(None)
        self._client.close()

    def _do(self, work: Coroutine[Any, Any, None], dies_at: Step | None) -> None:
        async def in_time() -> None:
            _host.set(self)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await work

        self.dies_at = dies_at
        self._doing = self.loop.create_task(in_time())
        try:
            self.loop.run_until_complete(self._doing)
        except (Died, asyncio.CancelledError):
            self.crash()
        except AgentError:  # the crew would log it and recover
            self.crash()
            self.start()
        self.dies_at = None

    async def _recover(self) -> None:
        for running in await recover(self._context_for, self.runs, agent=self.name):
            self._watch(running)
        await self._until_quiet()

    async def _take(self, queue: Queue) -> None:
        source = Source(queues=(queue,), features=self.features, api_version=(2, 34))
        api = PatientClient(self._client, self)
        waiting = await first_waiting(api, source, source.ids)
        if waiting is None:
            return
        claimant = Claimant(worker=self.name, agent=self.name)
        claimed = await claim_task(api, source, self.runs, waiting, claimant=claimant)
        running = await launch(self._context(), claimed) if claimed is not None else None
        if running is not None:
            self._watch(running)

    def _watch(self, running: Running) -> None:
        async def watch() -> None:
            await see_through(self._context(), running)
            running.run.remove()
            steps.reached(Step.RUN_REMOVED)

        self._watching.append(asyncio.create_task(watch()))

    async def _until_quiet(self) -> None:
        """Until each task that is watched runs on because the server wants it to."""
        while True:
            for watch in [watch for watch in self._watching if watch.done()]:
                self._watching.remove(watch)
                watch.result()
            if not self._watching or not await self._has_something_to_see():
                return
            await asyncio.wait(self._watching, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)

    async def _has_something_to_see(self) -> bool:
        if not self.running:
            return True
        task = self.running[0].task
        look = await AsyncClient(self._client).send_until_answered(tasks.look(task))
        started = [claim.started for _, claim in self.runs.of_agent(self.name) if claim.task == task]
        cause, _ = abort.cause_in(look, worker=self.name, started=started[-1] if started else "")
        return cause is not None

    def _context_for(self, claim: Claim) -> RunContext:
        return self._context()

    def _context(self) -> RunContext:
        api = PatientClient(self._client, self)

        async def announce(task: str | None, queue: str | None) -> None:
            await api.send_until_answered(workers.status_report(self.name, queues=[], task=task, queue=queue))

        return run_context(
            api,
            self.features,
            worker=self.name,
            poll_seconds=0.1,
            runtime=SmallRuntime(self),
            settings=self.settings,
            announce=announce,
        )


async def _gone(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
