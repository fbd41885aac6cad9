"""The guarantees of docs/guarantees.md against the real server and the real code of claim, run and recovery, in orders
of events that nobody thought of.

The model (tests/model) explores every order of a small protocol; here some orders of the real one are tried. Agents die
at any of their steps, replies are lost, the server is killed, people do what they want. `GPUFLEET_EXAMPLES` is the
number of orders; CI tries the same few every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.apiserver import CallError, ServerProcess
from support.hosts_in_process import SmallExecutor, SmallHost, steps_and_pauses

from agent.api.queues import Queue
from agent.api.server import Features
from agent.models import Outcome
from agent.steps import Step

EXAMPLES = int(os.environ.get("GPUFLEET_EXAMPLES", "12"))
HOSTS, TASKS = 3, 3

OURS = Features(repeatable_pop=True, claimed_start=True, log_ids=True, wait_for_status=True)
CLEARML = Features()

CLAIMING = (Step.SEEN, Step.CLAIM_WRITTEN, Step.POPPED, Step.CLAIM_HELD, Step.TASK_WRITTEN, Step.START_TOLD)
LAUNCHING = (Step.START_WRITTEN, Step.SETUP_WRITTEN, Step.EXECUTOR_STARTED)
ENDING = (
    Step.STOP_SEEN,
    Step.STOP_WRITTEN,
    Step.STOP_SENT,
    Step.EXECUTOR_GONE,
    Step.EXIT_WRITTEN,
    Step.END_NOTED,
    Step.CONSOLE_DONE,
    Step.END_TOLD,
    Step.REPORT_WRITTEN,
    Step.RUN_REMOVED,
)
RECOVERING = (Step.FOUND, Step.GIVING_BACK, Step.GIVEN_BACK, Step.MOVED_TO_FRONT, *ENDING)

#: What people do, apart from queueing tasks; and what of that to the very task that an agent is in doubt about.
ACTS = ("abort", "dequeue", "mark_as_stopped", "reset", "delete_and_make_anew", "delete_the_queue")
INTERRUPTIONS = ("abort", "mark_as_stopped", "reset")

#: Which of those that something can happen to.
numbers = st.integers(0, 2)


@dataclass(frozen=True)
class Mishap:
    """What goes wrong while an agent does something: it dies at a step; the reply to a call that decides is lost
    "before" or "after" the server acted, and before the agent does anything about that, something else happens.
    """

    dies_at: Step | None = None
    loses: str = ""
    call: str = ""
    meanwhile: str = ""


NOTHING = Mishap()


def mishaps(*steps: Step) -> st.SearchStrategy[Mishap]:
    loses, meanwhile = st.sampled_from(("before", "after")), st.sampled_from(("", "visit", "visit", *INTERRUPTIONS))
    deaths = st.builds(Mishap, dies_at=st.sampled_from(steps))
    calls = st.sampled_from(("", "tasks.started"))  # a pop comes before it, and would be the one that is lost
    losses = st.builds(Mishap, loses=loses, call=calls, meanwhile=meanwhile)
    return st.one_of(st.just(NOTHING), deaths, losses)


@dataclass
class Known:
    """What the test knows of a task: the words of people and the fates of its executors, since it was queued last.

    `is_homeless`: its queue was deleted while an agent had it. If it never ran, that agent stops it where it would have
    given it back, or our server makes it a draft within two minutes.
    """

    life: int = 0
    said: str = ""
    is_asked_to_stop: bool = False
    is_homeless: bool = False
    fates: list[str] = field(default_factory=list)


class ClaimsAndQueues(RuleBasedStateMachine):
    """A few hosts, a few tasks, one queue at a time."""

    server: ServerProcess
    features: Features

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="claims-")
        self.may_kill_server = False
        self.was_lost = False
        self.lives: dict[SmallExecutor, int] = {}
        self.overlaps: list[str] = []

    @initialize(may_kill_server=st.sampled_from((False, False, False, True)))
    def begin(self, may_kill_server: bool) -> None:
        """A start of the server takes as long as a hundred other steps."""
        self.may_kill_server = may_kill_server
        self.queue = self._new_queue()
        self.tasks = [self.server.new_task(f"task {number}") for number in range(TASKS)]
        self.known = {task: Known() for task in self.tasks}
        self.hosts = [self._new_host(number) for number in range(HOSTS)]
        for host in self.hosts:
            host.start()
        for _ in self.tasks:
            self.enqueue(0)

    def _new_queue(self) -> Queue:
        name = f"queue {os.urandom(6).hex()}"
        return Queue(self.server.new_queue(name), name)

    def _new_host(self, number: int) -> SmallHost:
        return SmallHost(
            name=f"host{number}-{self.queue.id[:6]}",
            folder=Path(self.folder.name) / f"host{number}",
            server=self.server,
            loop=self.loop,
            features=self.features,
            on_begin=self._note_begin,
            on_end=self._note_end,
        )

    def _note_begin(self, executor: SmallExecutor) -> None:
        life = self.known[executor.task].life
        for host in self.hosts:
            for other in host.executors:
                is_another = other is not executor and other.task == executor.task and other.is_user_alive
                if is_another and self.lives.get(other) == life:
                    self.overlaps.append(f"{executor.run} began while {other.run} ran")
        self.lives[executor] = life

    def _note_end(self, executor: SmallExecutor, fate: str) -> None:
        known = self.known[executor.task]
        if self.lives.get(executor) == known.life:
            known.fates.append(fate)

    # --- people

    def _say(self, endpoint: str, task: str, **body: Any) -> bool:
        """Whether the server did it."""
        try:
            self.server.call(endpoint, task=task, **body)
        except CallError:
            return False
        return True

    @rule(number=numbers)
    def enqueue(self, number: int) -> None:
        statuses = self._statuses()
        ready = [task for task in self.tasks if statuses[task] not in ("queued", "in_progress")]
        if not ready:
            return
        task = ready[number % len(ready)]
        if statuses[task] == "completed":
            self._say("tasks.reset", task)
        if self._say("tasks.enqueue", task, queue=self.queue.id):
            self.known[task] = Known(life=self.known[task].life + 1)

    @rule(number=numbers, act=st.sampled_from(ACTS))
    def act(self, number: int, act: str) -> None:
        """One rule for all that people do: it would be most of what happens else. Tasks that run come first."""
        statuses = self._statuses()
        running = [task for task in self.tasks if statuses[task] == "in_progress"]
        tasks = running if running and act != "dequeue" else self.tasks
        getattr(self, f"_{act}")(tasks[number % len(tasks)])
        for host in self.hosts:
            if host.is_up:
                host.settle()

    def _abort(self, task: str) -> None:
        if self._say("tasks.stop", task):
            self._note_word(task)

    def _dequeue(self, task: str) -> None:
        if self._statuses()[task] == "queued" and self._say("tasks.dequeue", task):
            self.known[task].said = self._statuses()[task]

    def _mark_as_stopped(self, task: str) -> None:
        if self._statuses()[task] == "in_progress" and self._say("tasks.stopped", task):
            self._note_word(task)

    def _reset(self, task: str) -> None:
        if self._say("tasks.reset", task, force=True):
            self._note_word(task)

    def _delete_and_make_anew(self, task: str) -> None:
        if self._say("tasks.delete", task, force=True):
            self.tasks[self.tasks.index(task)] = new = self.server.new_task("a task")
            self.known[new] = Known()

    def _note_word(self, task: str) -> None:
        known, status = self.known[task], self._statuses()[task]
        known.is_asked_to_stop = True
        if status != "in_progress":
            known.said = status

    def _delete_the_queue(self, task: str) -> None:
        waiting, before = self._waiting(), self._statuses()
        self.server.call("queues.delete", queue=self.queue.id, force=True)
        for one, after in self._statuses().items():
            if one in waiting:
                self.known[one].said = after  # back to what it was before it was queued
            elif before[one] in ("queued", "in_progress"):
                self.known[one].is_homeless = True
        self.queue = self._new_queue()

    # --- agents

    @rule(number=numbers, mishap=mishaps(*CLAIMING, *LAUNCHING))
    def take(self, number: int, mishap: Mishap) -> None:
        """By an agent that is up by then, and a task waits if there can be one."""
        host = self._one_of(number, [host for host in self.hosts if not host.running])
        if host is None:
            return
        if not host.is_up:
            host.start()
        if not self._waiting():
            self.enqueue(number)
        with self._going_wrong(host, mishap):
            host.take(self.queue, dies_at=mishap.dies_at)

    @rule(number=numbers, code=st.sampled_from((0, 1, None)), mishap=mishaps(*ENDING))
    def end_of_an_executor(self, number: int, code: int | None, mishap: Mishap) -> None:
        """Its task has ended, or it is killed; its agent may be down."""
        if host := self._one_of(number, [host for host in self.hosts if host.running]):
            self._end(host, code, mishap)

    def _end(self, host: SmallHost, code: int | None, mishap: Mishap = NOTHING) -> None:
        for executor in host.running:
            executor.end(None if code is None else Outcome(phase="run", exit_code=code))
        if host.is_up:
            with self._going_wrong(host, mishap):
                host.settle(dies_at=mishap.dies_at)

    @contextlib.contextmanager
    def _going_wrong(self, host: SmallHost, mishap: Mishap) -> Iterator[None]:
        async def meanwhile() -> None:
            if mishap.meanwhile == "visit":
                for other in self.hosts:
                    await other.visit(self.queue)
            elif mishap.meanwhile:
                for _, claim in host.runs.of_agent(host.name):
                    getattr(self, f"_{mishap.meanwhile}")(claim.task)

        host.transport.lose_next, host.transport.lose_call, host.meanwhile = mishap.loses, mishap.call, meanwhile
        yield
        self.was_lost = bool(mishap.loses) and not host.transport.lose_next
        host.transport.lose_next, host.transport.lose_call, host.meanwhile = "", "", None

    @rule(number=numbers, reboots=st.booleans())
    def death_of_an_agent(self, number: int, reboots: bool) -> None:
        """While its task runs: the task runs on, or the whole host goes down."""
        if host := self._one_of(number, [host for host in self.hosts if host.running]):
            host.crash()
            for executor in host.running if reboots else ():
                executor.kill()

    @rule(number=numbers, mishap=mishaps(*RECOVERING))
    def start_of_an_agent(self, number: int, mishap: Mishap) -> None:
        if host := self._one_of(number, [host for host in self.hosts if not host.is_up]):
            with self._going_wrong(host, mishap):
                host.start(dies_at=mishap.dies_at)

    @precondition(lambda self: self.may_kill_server)
    @rule()
    def death_of_the_server(self) -> None:
        self.may_kill_server = False
        self.server.kill()
        self.server.restart()

    def _one_of(self, number: int, hosts: list[SmallHost]) -> SmallHost | None:
        return hosts[number % len(hosts)] if hosts else None

    # --- what has to be true

    def _looks(self) -> dict[str, dict[str, Any]]:
        fields = ["id", "status", "status_message"]
        return {
            task["id"]: task for task in self.server.call("tasks.get_all", id=self.tasks, only_fields=fields)["tasks"]
        }

    def _statuses(self) -> dict[str, str]:
        return {task: look["status"] for task, look in self._looks().items()}

    def _waiting(self) -> list[str]:
        return [
            entry["task"] for entry in self.server.call("queues.get_by_id", queue=self.queue.id)["queue"]["entries"]
        ]

    @invariant()
    def nobody_runs_a_task_while_another_does(self) -> None:
        assert not self.overlaps

    @invariant()
    def each_task_is_in_one_place(self) -> None:
        waiting = self._waiting()
        for task, look in self._looks().items():
            self._check_place(task, look, waiting.count(task))

    def _check_place(self, task: str, look: dict[str, Any], entries: int) -> None:
        known, status = self.known[task], look["status"]
        claims = [claim for host in self.hosts for run, claim in host.runs.of_agent(host.name) if claim.task == task]
        place = f"{task} is {look}, {entries} times in the queue, claims: {claims}, {known}"
        assert entries <= (status == "queued"), place
        if status == "queued":
            assert entries or claims or known.is_homeless, place
            assert not self._runs(task), place
        if status == "in_progress":
            signed = {f"Changed by clearml-agent {claim.worker}" for claim in claims}
            assert look["status_message"] in signed or (claims and look["status_message"] == "stopping"), place
        if known.said:
            assert status == known.said, place
        else:
            self._check_status(known, status, place)

    def _runs(self, task: str) -> bool:
        executors = [one for host in self.hosts for one in host.executors if one.task == task and one.is_user_alive]
        return any(self.lives[executor] == self.known[task].life for executor in executors)

    def _check_status(self, known: Known, status: str, place: str) -> None:
        last = known.fates[-1] if known.fates else ""
        if status == "completed":
            assert last == "exit 0", place
        if status == "failed":
            assert last in ("exit 1", "died"), place
        if status == "stopped":
            assert known.said or known.is_asked_to_stop or known.is_homeless, place
        if known.is_asked_to_stop:
            assert status != "queued", place

    def teardown(self) -> None:
        try:
            if hasattr(self, "hosts"):
                self.finish()
        finally:
            self.close()

    def close(self) -> None:
        for host in getattr(self, "hosts", ()):
            host.close()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def finish(self) -> None:
        """All agents come back, all tasks end: nothing may be left."""
        for _round in range(TASKS + 1):
            for host in self.hosts:
                if not host.is_up:
                    host.start()
                if not host.is_busy:
                    host.take(self.queue)
                self._end(host, 0)
        self.nobody_runs_a_task_while_another_does()
        self.each_task_is_in_one_place()
        for host in self.hosts:
            assert list(host.runs) == [], f"{host.name} has not settled {list(host.runs)}"
        for task, status in self._statuses().items():
            known = self.known[task]
            assert status in ("created", "stopped", "failed", "completed") or known.is_homeless, (task, status, known)


def machine_on(server: ServerProcess, features: Features) -> type[ClaimsAndQueues]:
    class Machine(ClaimsAndQueues):
        pass

    Machine.server, Machine.features = server, features
    return Machine


on_both = pytest.mark.parametrize("features", [OURS, CLEARML], ids=["our server", "without our extensions"])


@on_both
@pytest.mark.parametrize("meanwhile", ["", "visit", *INTERRUPTIONS])
@pytest.mark.parametrize("loses", ["before", "after"])
@pytest.mark.parametrize("call", ["queues.get_next_task", "tasks.started", "tasks.enqueue", "tasks.completed"])
def test_each_reply_is_lost_once_while_something_else_happens(
    server: ServerProcess, features: Features, call: str, loses: str, meanwhile: str
) -> None:
    """What the orders below may not come by: each safeguard of a call that is not simply repeated is needed here."""
    mishap = Mishap(loses=loses, call=call, meanwhile=meanwhile)
    with steps_and_pauses(), contextlib.closing(machine_on(server, features)()) as machine:
        machine.begin(may_kill_server=False)
        if call == "tasks.enqueue":
            machine.take(0, Mishap(dies_at=Step.SETUP_WRITTEN))
            machine.start_of_an_agent(0, mishap)
        elif call == "tasks.completed":
            machine.take(0, NOTHING)
            machine.end_of_an_executor(0, 0, mishap)
        else:
            machine.take(0, mishap)
        assert machine.was_lost, f"{call} was not made"
        machine.nobody_runs_a_task_while_another_does()
        machine.each_task_is_in_one_place()
        machine.finish()


@pytest.mark.timeout(3600)
@on_both
def test_whatever_happens_no_task_is_lost_run_twice_or_misreported(server: ServerProcess, features: Features) -> None:
    with steps_and_pauses():
        run_state_machine_as_test(
            machine_on(server, features),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=40,
                deadline=None,
                derandomize="GPUFLEET_EXAMPLES" not in os.environ,
                phases=(Phase.reuse, Phase.generate),  # making a failure smaller would take an hour
                suppress_health_check=list(HealthCheck),
            ),
        )
