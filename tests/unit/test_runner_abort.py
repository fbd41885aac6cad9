"""What a look at a task's status means for its process."""

from __future__ import annotations

import pytest

from agent.api.tasks import StatusLook
from agent.runner.abort import cause_in
from agent.runner.outcome import StopCause
from agent.states import TaskStatus


@pytest.mark.parametrize(
    ("status", "message", "cause", "sure"),
    [
        ("in_progress", "", None, True),
        ("in_progress", "stopping", StopCause.ABORT, True),
        ("completed", "", None, True),
        ("stopped", "", StopCause.STATUS_CHANGED, True),
        ("failed", "", StopCause.STATUS_CHANGED, True),
        ("closed", "", StopCause.STATUS_CHANGED, True),
        ("published", "", StopCause.STATUS_CHANGED, True),
        ("queued", "", StopCause.STATUS_CHANGED, False),
        ("created", "", StopCause.RESET, False),
    ],
)
def test_each_status_has_its_meaning(status: str, message: str, cause: StopCause | None, sure: bool) -> None:
    assert cause_in(StatusLook(TaskStatus(status), message)) == (cause, sure)


def test_a_task_that_is_gone_is_looked_at_twice_before_it_is_stopped() -> None:
    assert cause_in(None) == (StopCause.DELETED, False)


def test_a_task_that_another_agent_has_started_is_no_longer_ours() -> None:
    """Our host was cut off so long that somebody reset the task and queued it again."""
    look = StatusLook(TaskStatus.IN_PROGRESS, "Changed by clearml-agent other:0")
    assert cause_in(look, worker="w") == (StopCause.STATUS_CHANGED, True)
    assert cause_in(look, worker="other:0") == (None, True)
    assert cause_in(look) == (None, True)


def test_a_later_start_by_the_same_worker_ends_the_run_before_it() -> None:
    look = StatusLook(TaskStatus.IN_PROGRESS, "Changed by clearml-agent w", started="later")
    assert cause_in(look, worker="w", started="before") == (StopCause.STATUS_CHANGED, True)
    assert cause_in(look, worker="w", started="later") == (None, True)
    assert cause_in(look, worker="w") == (None, True)


def test_the_same_word_in_another_state_is_no_abort() -> None:
    assert cause_in(StatusLook(TaskStatus.COMPLETED, "stopping"))[0] is None
