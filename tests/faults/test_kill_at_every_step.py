"""Somebody is killed with -9 at every step of the life of a task: its daemon, its executor, its program, its server, or
all of its host at once. The steps are the code's own list, so one that is new is killed at, too, or fails here.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
from support.apiserver import ServerProcess
from support.fault_case import Case
from support.watcher import Watcher

from agent.steps import Step

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
    RETRY = "retry"


STORIES = {
    **dict.fromkeys((Step.STOP_SEEN, Step.STOP_WRITTEN, Step.STOP_SENT), Story.STOP),
    **dict.fromkeys((Step.GIVING_BACK, Step.GIVEN_BACK, Step.MOVED_TO_FRONT), Story.GIVE_BACK),
    Step.FOUND: Story.FOUND,
    **dict.fromkeys((Step.RETRY_DUE, Step.RETRY_COUNTED), Story.RETRY),
}
#: A policy as `Task.set_user_properties` writes it: one more try.
POLICY = {"retry_on": "3", "retry_limit": "1", "retry_delay_seconds": "0"}


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
            is_quick = victim is Victim.DAEMON
            yield pytest.param(step, victim, id=f"{step}-{victim}", marks=() if is_quick else (pytest.mark.thorough,))


def strike_at(case: Case, victim: Victim) -> None:
    match victim:
        case Victim.DAEMON:
            case.agent.kill()
        case Victim.EXECUTOR:
            case.kill_executor()
        case Victim.PROGRAM:
            case.kill_program()
        case Victim.SERVER:
            case.server.kill()
        case Victim.HOST:
            case.kill_host()


def repair(case: Case, story: Story, victim: Victim) -> None:
    """What a supervisor would do."""
    if victim is Victim.SERVER:
        case.server.restart()
        if story is Story.GIVE_BACK:
            case.agent.process.wait(30)
    if victim in (Victim.DAEMON, Victim.HOST) or story is Story.GIVE_BACK:
        case.agent.restart()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with Watcher() as watching:
        yield watching


@pytest.mark.parametrize(("step", "victim"), list(cases()))
def test_nothing_is_lost_when_somebody_is_killed(
    server: ServerProcess, tmp_path: Path, watcher: Watcher, step: Step, victim: Victim
) -> None:
    story = story_of(step)
    script = {"pause": 0.4 if story is Story.STOP else 0.01, "code": 3 if story is Story.RETRY else 0}
    case = Case(server, tmp_path, environ=watcher.environ, script=script)
    if story is Story.RETRY:
        policy = {name: {"section": "properties", "name": name, "value": value} for name, value in POLICY.items()}
        server.call("tasks.edit", task=case.task, hyperparams={"properties": policy}, force=True)
    wrong: list[str] = []

    def strike(_pid: int) -> None:
        wrong.extend(case.checker.now([case.task]))
        strike_at(case, victim)

    watcher.at(step, strike)
    case.start()
    try:
        tell(case, story, watcher)
        watcher.wait(step, log=case.agent.log)
        repair(case, story, victim)
        status = case.settle(excused=excuses(step, victim))
        assert not wrong
        assert status in expected(step, victim)
        if victim in (Victim.DAEMON, Victim.SERVER) and story is not Story.STOP:
            assert len(case.checker.attempts(case.task)) == (2 if story is Story.RETRY else 1)
    finally:
        case.end()


def tell(case: Case, story: Story, watcher: Watcher) -> None:
    """Bring the task to where the story wants it; the watcher strikes on the way."""
    match story:
        case Story.PLAIN | Story.RETRY:
            return
        case Story.STOP:
            watcher.at(Step.PROCESS_WRITTEN, lambda _: case.server.call("tasks.stop", task=case.task))
        case Story.GIVE_BACK:
            watcher.at(Step.POPPED, lambda _: case.agent.process.send_signal(signal.SIGTERM))
        case Story.FOUND:
            watcher.at(Step.EXECUTOR_STARTED, lambda _: case.agent.kill())
            watcher.wait(Step.EXECUTOR_STARTED, log=case.agent.log)
            case.agent.restart()


def excuses(step: Step, victim: Victim) -> frozenset[str]:
    """What nobody can know: the exit code of a program whose parent died before it could write it down."""
    return frozenset({"outcome"} if step is Step.PROCESS_ENDED and victim in (Victim.EXECUTOR, Victim.HOST) else ())


def expected(step: Step, victim: Victim) -> set[str]:
    """The status that a task may have in the end."""
    if story_of(step) is Story.STOP:
        return {"stopped", "failed"} if victim is Victim.PROGRAM else {"stopped"}
    if story_of(step) is Story.RETRY:
        return {"failed"}
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
