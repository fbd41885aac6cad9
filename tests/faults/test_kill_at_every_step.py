"""Somebody is killed with -9 at every step of the life of a task: its daemon, its executor, its program, its server, or
all of its host at once. The steps are the code's own list, so one that is new is killed at, too, or fails here.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import pytest
from support.agent import AgentProcess, create_script
from support.apiserver import ServerProcess
from support.invariants import Checker, counting_script, processes_of
from support.watcher import Watcher

from agent.steps import Step

LINES = 15
ORDER = list(Step)


class Victim(StrEnum):
    DAEMON = "daemon"
    EXECUTOR = "executor"
    PROGRAM = "program"
    SERVER = "server"
    HOST = "host"


class Story(StrEnum):
    """How a task comes to a step."""

    PLAIN = "plain"
    STOP = "stop"
    GIVE_BACK = "give_back"
    FOUND = "found"


STORIES = {
    **dict.fromkeys((Step.STOP_SEEN, Step.STOP_WRITTEN, Step.STOP_SENT), Story.STOP),
    **dict.fromkeys((Step.GIVING_BACK, Step.GIVEN_BACK, Step.MOVED_TO_FRONT), Story.GIVE_BACK),
    Step.FOUND: Story.FOUND,
}


def story_of(step: Step) -> Story:
    return STORIES.get(step, Story.PLAIN)


def is_between(step: Step, first: Step, last: Step) -> bool:
    return ORDER.index(first) <= ORDER.index(step) <= ORDER.index(last)


def has_executor(step: Step) -> bool:
    """Whether an executor certainly lives at this step."""
    return is_between(step, Step.EXECUTOR_STARTED, Step.OUTCOME_WRITTEN) or step in (Step.STOP_SEEN, Step.STOP_WRITTEN)


def has_program(step: Step) -> bool:
    return step in (Step.PROCESS_WRITTEN, Step.STOP_SEEN, Step.STOP_WRITTEN)


def cases() -> Iterator[object]:
    for step in Step:
        for victim in Victim:
            if victim is Victim.EXECUTOR and not has_executor(step):
                continue
            if victim is Victim.PROGRAM and not has_program(step):
                continue
            is_quick = victim in (Victim.DAEMON, Victim.EXECUTOR)
            yield pytest.param(step, victim, id=f"{step}-{victim}", marks=() if is_quick else (pytest.mark.thorough,))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


class Case:
    """A server, an agent, and one task that counts."""

    def __init__(self, server: ServerProcess, place: Path, story: Story) -> None:
        self.server = server
        self.place = place
        self.story = story
        self.queue = server.new_queue(place.name)
        pause = 0.4 if story is Story.STOP else 0.01
        script = counting_script(place / "ledger", lines=LINES, pause=pause)
        self.task = create_script(server, script, queue=place.name)
        self.checker = Checker(server=server, states=[place / "state"], ledger=place / "ledger", lines=LINES)

    def start(self, watcher: Watcher) -> None:
        name = self.place.name
        self.agent = AgentProcess(
            self.server,
            self.place / "state",
            name,
            worker_id=f"h:{name}",
            environ=watcher.environ,
            stop_grace_seconds=1.0,
        )

    def kill(self, victim: Victim) -> None:
        match victim:
            case Victim.DAEMON:
                self.agent.kill()
            case Victim.EXECUTOR:
                _kill(set(processes_of(self.task)) - self._programs())
            case Victim.PROGRAM:
                _kill(self._programs())
            case Victim.SERVER:
                self.server.kill()
            case Victim.HOST:
                self.agent.process.kill()
                _kill(processes_of(self.task), at_least=0)
                self.agent.kill()

    def _programs(self) -> set[int]:
        """What the executor has started; it may still wait for its program, and look like an executor."""
        return {json.loads(file.read_text())["pid"] for file in self.place.glob("state/runs/*/user.json")}

    def repair(self, victim: Victim) -> None:
        """What a supervisor would do."""
        if victim is Victim.SERVER:
            self.server.restart()
        if self.story is Story.GIVE_BACK and victim is Victim.SERVER:
            self.agent.process.wait(30)
        if victim in (Victim.DAEMON, Victim.HOST) or self.story is Story.GIVE_BACK:
            self.agent.restart()

    def end(self) -> None:
        if self.agent.process.poll() is None:
            self.agent.process.send_signal(signal.SIGINT)
        self.agent.process.wait(30)


def _kill(pids: Collection[int], *, at_least: int = 1) -> None:
    assert len(pids) >= at_least, "nobody to kill"
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with Watcher() as watching:
        yield watching


@pytest.mark.parametrize(("step", "victim"), list(cases()))
def test_nothing_is_lost_when_somebody_is_killed(
    server: ServerProcess, tmp_path: Path, watcher: Watcher, step: Step, victim: Victim
) -> None:
    case = Case(server, tmp_path, story_of(step))
    wrong: list[str] = []

    def strike(_pid: int) -> None:
        wrong.extend(case.checker.now([case.task]))
        case.kill(victim)

    watcher.at(step, strike)
    case.start(watcher)
    try:
        tell(case, watcher)
        watcher.wait(step)
        case.repair(victim)
        case.checker.settle([case.task], excused=excuses(step, victim))
        assert not wrong
        assert server.status(case.task) in expected(step, victim)
        if victim in (Victim.DAEMON, Victim.SERVER) and case.story is not Story.STOP:
            assert len(case.checker.attempts(case.task)) == 1
    finally:
        case.end()


def tell(case: Case, watcher: Watcher) -> None:
    """Bring the task to where the story wants it; the watcher strikes on the way."""
    match case.story:
        case Story.PLAIN:
            return
        case Story.STOP:
            watcher.at(Step.PROCESS_WRITTEN, lambda _: case.server.call("tasks.stop", task=case.task))
        case Story.GIVE_BACK:
            watcher.at(Step.POPPED, lambda _: case.agent.process.send_signal(signal.SIGTERM))
        case Story.FOUND:
            watcher.at(Step.EXECUTOR_STARTED, lambda _: case.agent.kill())
            watcher.wait(Step.EXECUTOR_STARTED)
            case.agent.restart()


def excuses(step: Step, victim: Victim) -> frozenset[str]:
    """What nobody can know: the exit code of a program whose parent died before it could write it down."""
    return frozenset({"outcome"} if step is Step.PROCESS_ENDED and victim in (Victim.EXECUTOR, Victim.HOST) else ())


def expected(step: Step, victim: Victim) -> set[str]:
    """The status that a task may have in the end."""
    if story_of(step) is Story.STOP:
        return {"stopped", "failed"} if victim is Victim.PROGRAM else {"stopped"}
    match victim:
        case Victim.DAEMON | Victim.SERVER:
            return {"completed"}
        case Victim.PROGRAM:
            return {"failed"}
        case Victim.EXECUTOR:
            return {"completed"} if step is Step.OUTCOME_WRITTEN else {"failed"}
        case Victim.HOST:
            return after_the_host(step)


def after_the_host(step: Step) -> set[str]:
    """Not begun: another go. Begun and not ended: failed. Ended: as it ended."""
    if step in (Step.EXECUTOR_STARTED, Step.FOUND) or is_between(step, Step.CONSOLE_NOTED, Step.PACKAGES_TOLD):
        return {"completed", "failed"}  # beside the executor, which may have come to any point
    is_inside = is_between(step, Step.LAUNCH_WRITTEN, Step.PROCESS_ENDED)
    return {"failed"} if is_inside else {"completed"}
