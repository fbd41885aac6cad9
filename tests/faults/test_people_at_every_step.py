"""Somebody aborts, resets, deletes, publishes or queues a task again at each step of its life, and that stands."""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import pytest
from support.apiserver import CallError, ServerProcess
from support.fault_case import Case
from support.watcher import Watcher

from agent.steps import Step


class Deed(StrEnum):
    ABORT = "abort"
    RESET = "reset"
    DELETE = "delete"
    QUEUE_AGAIN = "queue_again"
    PUBLISH = "publish"
    DELETE_QUEUE = "delete_queue"


#: Steps of a task that nobody stops and that is not given back, in order.
STEPS = tuple(
    step
    for step in Step
    if step
    not in {
        *(Step.STOP_SEEN, Step.STOP_WRITTEN, Step.STOP_SENT, Step.RETRY_DUE, Step.RETRY_COUNTED),
        *(Step.GIVING_BACK, Step.GIVEN_BACK, Step.MOVED_TO_FRONT, Step.FOUND),
    }
)
QUICK = (Step.POPPED, Step.TASK_WRITTEN, Step.START_TOLD, Step.EXECUTOR_BEGUN, Step.PROCESS_WRITTEN, Step.CONSOLE_DONE)
#: From here on the task may end as it ended by itself.
OVER = STEPS[STEPS.index(Step.PROCESS_ENDED) :]
BEFORE_START = STEPS[: STEPS.index(Step.START_TOLD)]


def do(server: ServerProcess, deed: Deed, task: str, queue: str) -> None:
    match deed:
        case Deed.ABORT:
            server.call("tasks.stop", task=task)
        case Deed.RESET:
            server.call("tasks.reset", task=task, force=True)
        case Deed.DELETE:
            server.call("tasks.delete", task=task, force=True)
        case Deed.QUEUE_AGAIN:
            server.call("tasks.reset", task=task, force=True)
            server.call("tasks.enqueue", task=task, queue=queue)
        case Deed.PUBLISH:
            server.call("tasks.publish", task=task, force=True)
        case Deed.DELETE_QUEUE:
            server.call("queues.delete", queue=queue, force=True)


def expected(deed: Deed, step: Step) -> set[str]:
    match deed:
        case Deed.ABORT:
            return {"stopped", "completed"} if step in OVER else {"stopped", "created"}
        case Deed.RESET:
            return {"created"}
        case Deed.DELETE:
            return {"gone"}
        case Deed.QUEUE_AGAIN:
            return {"completed"}
        case Deed.PUBLISH:
            return {"published"}
        case Deed.DELETE_QUEUE:
            return {"created", "stopped"} if step in (Step.SEEN, Step.CLAIM_WRITTEN) else {"completed"}


def cases() -> list[object]:
    return [
        pytest.param(
            step,
            deed,
            id=f"{step}-{deed}",
            marks=() if step in QUICK and deed in (Deed.ABORT, Deed.QUEUE_AGAIN) else (pytest.mark.thorough,),
        )
        for step in STEPS
        for deed in Deed
    ]


@pytest.mark.parametrize(("step", "deed"), cases())
def test_what_somebody_says_of_a_task_stands(server: ServerProcess, tmp_path: Path, step: Step, deed: Deed) -> None:
    refused: list[CallError] = []
    with Watcher() as watcher:
        case = Case(server, tmp_path, environ=watcher.environ, script={"pause": 0.1})
        watcher.at(step, _noting(refused, lambda: do(server, deed, case.task, case.queue)))
        case.start()
        try:
            watcher.wait(step, log=case.agent.log)
            case.checker.settle([case.task], excused=frozenset({"outcome", "earlier consoles"}))
            status = case.checker.status(case.task)
            assert status in ({"completed"} if refused else expected(deed, step)), refused
            if deed is Deed.ABORT and step in BEFORE_START and not refused:
                assert not case.checker.attempts(case.task)
        finally:
            case.end()


def test_a_task_whose_queue_is_deleted_before_it_can_be_given_back_is_not_forgotten(
    server: ServerProcess, tmp_path: Path
) -> None:
    with Watcher() as watcher:
        case = Case(server, tmp_path, environ=watcher.environ)
        watcher.at(Step.POPPED, lambda _: case.agent.process.send_signal(signal.SIGTERM))
        watcher.at(Step.GIVING_BACK, lambda _: server.call("queues.delete", queue=case.queue, force=True))
        case.start()
        try:
            watcher.wait(Step.GIVING_BACK, log=case.agent.log)
            assert case.settle() == "stopped"
            reason = server.call("tasks.get_by_id", task=case.task)["task"]["status_reason"]
            assert reason == f"queue {case.name} is gone"
        finally:
            case.end()


def _noting(refused: list[CallError], deed: Callable[[], None]) -> Callable[[int], None]:
    def act(_pid: int) -> None:
        try:
            deed()
        except CallError as error:
            refused.append(error)

    return act
