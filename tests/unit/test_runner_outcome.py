"""How an end becomes a final status: the table of exit codes and causes."""

from __future__ import annotations

import pytest

from agent.models import Outcome
from agent.runner.outcome import StopCause, final_call, verdict_for
from agent.states import TaskStatus


@pytest.mark.parametrize(
    ("outcome", "status", "reason", "exit_code"),
    [
        (Outcome(phase="run", exit_code=0), TaskStatus.COMPLETED, "worker execution done", 0),
        (Outcome(phase="run", exit_code=3), TaskStatus.FAILED, "worker execution exit code 3", 3),
        (Outcome(phase="run", exit_code=254), TaskStatus.STOPPED, "user abort", 254),
        (Outcome(phase="run", signal=2), TaskStatus.STOPPED, "user abort", 130),
        (Outcome(phase="run", signal=9), TaskStatus.FAILED, "worker execution exit code -9", 137),
        (Outcome(phase="run", signal=11), TaskStatus.FAILED, "worker execution exit code -11", 139),
        (
            Outcome(phase="checkout", error="no such commit"),
            TaskStatus.FAILED,
            "worker execution exit code 1: checkout failed",
            1,
        ),
        (
            None,
            TaskStatus.FAILED,
            "worker execution exit code 75: infrastructure failure: "
            "the process that ran this task ended without an outcome",
            75,
        ),
    ],
)
def test_an_end_that_nobody_asked_for_is_judged_by_itself(
    outcome: Outcome | None, status: TaskStatus, reason: str, exit_code: int
) -> None:
    verdict = verdict_for(outcome, None)
    assert (verdict.status, verdict.reason, verdict.exit_code) == (status, reason, exit_code)


def test_a_task_that_ends_cleanly_on_an_abort_is_stopped_not_completed() -> None:
    verdict = verdict_for(Outcome(phase="run", exit_code=0, stopped=True), StopCause.ABORT)
    assert verdict.status is TaskStatus.STOPPED


def test_a_task_that_had_ended_before_the_abort_reached_it_keeps_its_own_end() -> None:
    verdict = verdict_for(Outcome(phase="run", exit_code=0, stopped=False), StopCause.ABORT)
    assert verdict.status is TaskStatus.COMPLETED


def test_a_task_that_the_shutdown_of_its_host_ended_is_stopped_even_if_it_ended_well() -> None:
    assert verdict_for(Outcome(phase="run", exit_code=0, stopped=True), None).status is TaskStatus.STOPPED


@pytest.mark.parametrize("cause", [StopCause.STATUS_CHANGED, StopCause.RESET, StopCause.DELETED])
def test_a_status_that_somebody_else_wrote_is_left_alone(cause: StopCause) -> None:
    assert verdict_for(Outcome(phase="run", signal=15, stopped=True), cause).status is None


def test_the_final_call_names_the_worker() -> None:
    call = final_call("t", verdict_for(Outcome(phase="run", exit_code=3), None), worker="host:gpu0")
    assert call.endpoint == "tasks.failed"
    assert isinstance(call.body, dict)
    assert call.body["status_message"] == "Changed by clearml-agent host:gpu0"
