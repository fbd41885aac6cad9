"""From how a run ended to what the server is told. Pure; the words are those that the ClearML web page knows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.api import tasks
from agent.api.client import Call
from agent.api.tasks import StatusLook
from agent.models import Json, Outcome
from agent.states import TaskStatus

INTERRUPTED_EXIT_CODES = frozenset({254})
SIGNATURE = "Changed by clearml-agent "
SIGINT = 2
HOURS_ARE_OVER = "the working hours of the worker are over"


class StopCause(StrEnum):
    """Why a run was asked to end; the value of `cause` in `stop.json`."""

    ABORT = "abort"  # somebody pressed abort: the server waits for us to confirm
    STATUS_CHANGED = "status_changed"  # the task was ended or re-queued elsewhere: its status is not ours to write
    RESET = "reset"
    DELETED = "deleted"
    SHUTDOWN = "shutdown"  # the agent was told to end its task and leave
    CLOSING = "closing"  # the working hours are over
    CLOSING_REQUEUE = "closing_requeue"  # the same, and the task goes back to its queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The final status to write (None: none), its reason, a last console line, and the exit code of `execute`.

    The status `queued` puts the task back to the front of the queue it came from.
    """

    status: TaskStatus | None
    reason: str
    notice: str
    exit_code: int


def verdict_for(outcome: Outcome | None, cause: StopCause | None) -> Verdict:
    """What to tell the server.

    A stop that was asked for decides over the exit code, because a task that ends cleanly on TERM has still been
    aborted; but a task that had ended by itself before the stop reached it keeps its own end. An executor that was
    stopped, but not by us, shared the fate of its host: a shutdown sends TERM to everybody.
    """
    was_stopped = outcome is None or outcome.stopped
    if cause is not None and was_stopped:
        return _stopped(cause)
    if outcome is not None and outcome.stopped:
        return _interrupted_by_host()
    if outcome is None:
        return Verdict(
            status=TaskStatus.FAILED,
            reason="worker execution exit code -9: the executor ended without an outcome",
            notice="The process that ran this task ended without an outcome: it was killed, or the host went down.",
            exit_code=1,
        )
    if outcome.phase != "run":
        return Verdict(
            status=TaskStatus.FAILED,
            reason=f"worker execution exit code 1: {outcome.phase} failed",
            notice=outcome.error or f"{outcome.phase} failed",
            exit_code=1,
        )
    return _own_end(outcome)


def _own_end(outcome: Outcome) -> Verdict:
    if outcome.signal is not None:
        if outcome.signal == SIGINT:
            return _interrupted(128 + SIGINT)
        return _failed(-outcome.signal, shell_code=128 + outcome.signal)
    code = outcome.exit_code or 0
    if code == 0:
        return Verdict(
            status=TaskStatus.COMPLETED,
            reason="worker execution done",
            notice="Process completed successfully",
            exit_code=0,
        )
    if code in INTERRUPTED_EXIT_CODES:
        return _interrupted(code)
    return _failed(code, shell_code=code)


def _stopped(cause: StopCause) -> Verdict:
    match cause:
        case StopCause.ABORT:
            return Verdict(
                status=TaskStatus.STOPPED,
                reason="task was stopped by tasks.stop",
                notice="Process aborted by user",
                exit_code=254,
            )
        case StopCause.SHUTDOWN:
            return Verdict(
                status=TaskStatus.STOPPED,
                reason="user abort",
                notice="Process stopped because its agent was told to end it",
                exit_code=254,
            )
        case StopCause.CLOSING:
            return Verdict(
                status=TaskStatus.STOPPED,
                reason=HOURS_ARE_OVER,
                notice="Process stopped because the working hours of its agent are over",
                exit_code=254,
            )
        case StopCause.CLOSING_REQUEUE:
            return Verdict(
                status=TaskStatus.QUEUED,
                reason=f"{HOURS_ARE_OVER}: queued again",
                notice="Process stopped because the working hours of its agent are over; the task is queued again",
                exit_code=254,
            )
        case StopCause.STATUS_CHANGED | StopCause.RESET | StopCause.DELETED:
            return Verdict(status=None, reason="", notice=f"Process stopped: {cause.value}", exit_code=1)


def _interrupted_by_host() -> Verdict:
    return Verdict(
        status=TaskStatus.STOPPED,
        reason="user abort",
        notice="Process stopped together with its host, or by somebody on it",
        exit_code=254,
    )


def _interrupted(code: int) -> Verdict:
    return Verdict(status=TaskStatus.STOPPED, reason="user abort", notice="Process terminated by user", exit_code=code)


def _failed(code: int, *, shell_code: int) -> Verdict:
    return Verdict(
        status=TaskStatus.FAILED,
        reason=f"worker execution exit code {code}",
        notice=f"Process failed, exit code {code}",
        exit_code=shell_code,
    )


def signature(worker: str) -> str:
    """What an agent writes into the status message with every change it makes; the web page shows it."""
    return f"{SIGNATURE}{worker}"


def is_of_another(look: StatusLook, worker: str, *, started: str = "") -> bool:
    """Whether the task has been started again since we did, at `started`: the start is signed, and the last one stands.

    A service that is reset and queued again comes back to the same worker; only the time tells that start from ours.
    """
    if look.status is not TaskStatus.IN_PROGRESS or not look.message.startswith(SIGNATURE):
        return False
    return look.message != signature(worker) or is_later_start(look, started)


def is_later_start(look: StatusLook, started: str) -> bool:
    """Whether a look shows another start than the one at `started`, as far as both are known."""
    return bool(started and look.started) and look.started != started


def in_view_of(look: StatusLook, verdict: Verdict, *, started: str) -> Verdict:
    """The verdict to write over what was seen. The word "stopping" hides who runs a task: if that is not this run of
    ours, or if ours is to be queued again, what the person wants is all that can be said.
    """
    if is_stopping(look) and (verdict.status is TaskStatus.QUEUED or is_later_start(look, started)):
        return _stopped(StopCause.ABORT)
    return verdict


def is_stopping(look: StatusLook) -> bool:
    """Whether somebody has asked the server to abort a task that runs: ClearML has no state for that."""
    return look.status is TaskStatus.IN_PROGRESS and "stopping" in look.message


def final_call(task_id: str, verdict: Verdict, *, worker: str) -> Call[Json]:
    """The call that writes the verdict's status; the verdict must have one."""
    message = signature(worker)
    match verdict.status:
        case TaskStatus.COMPLETED:
            return tasks.completed(task_id, reason=verdict.reason, message=message)
        case TaskStatus.STOPPED:
            return tasks.stopped(task_id, reason=verdict.reason, message=message)
        case _:
            return tasks.failed(task_id, reason=verdict.reason, message=message)
