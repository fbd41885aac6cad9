"""From how a run ended to what the server is told. Pure; the words are those that the ClearML web page knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from agent.api import tasks
from agent.api.client import Call
from agent.api.tasks import StatusLook
from agent.errors import INFRASTRUCTURE_EXIT_CODE
from agent.models import Json, Outcome
from agent.states import TaskStatus
from agent.wire import check_types

INTERRUPTED_EXIT_CODES = frozenset({254})
SIGNATURE = "Changed by clearml-agent "
SIGINT = 2
#: The phase of an outcome that we wrote ourselves: the task was not even given to an executor.
REFUSED = "refused"
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


def cause_of(stop: Json | None) -> StopCause | None:
    """What `stop.json` says; None where nothing does that we understand."""
    said = stop.get("cause") if stop else None
    return next((cause for cause in StopCause if cause.value == said), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The final status to write (None: none), its reason, a last console line, and the exit code of `execute`.

    The status `queued` puts the task back to the front of the queue it came from. Where that is a retry, `retry` is its
    number, and `delay_seconds` go by before. `infrastructure`: host, network or a server is to blame; `own_code` is the
    exit code that the user's process ended with all the same.
    """

    status: TaskStatus | None
    reason: str
    notice: str
    exit_code: int
    infrastructure: bool = False
    own_code: int | None = None
    retry: int = 0
    delay_seconds: float = 0.0

    @property
    def codes(self) -> frozenset[int]:
        """The exit codes that a retry policy may name."""
        return frozenset({self.exit_code, self.own_code} - {None})  # type: ignore[arg-type]

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """TypeError or ValueError for what is none."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        status = known.get("status")
        found = cls(**{**known, "status": None if status is None else TaskStatus(status)})
        check_types(found)
        if found.status is TaskStatus.UNKNOWN:
            raise ValueError(f"there is no status {status!r}")
        return found


def verdict_for(outcome: Outcome | None, cause: StopCause | None, *, fault: str = "") -> Verdict:
    """What to tell the server. `fault` is a sentence about a fault of the host that concerns this run.

    A stop that was asked for decides over the exit code, because a task that ends cleanly on TERM has still been
    aborted; but a task that had ended by itself before the stop reached it keeps its own end. An executor that was
    stopped, but not by us, shared the fate of its host: a shutdown sends TERM to everybody.
    """
    was_stopped = outcome is None or outcome.stopped
    if cause is not None and was_stopped:
        return stopped_by(cause)
    if outcome is not None and outcome.stopped:
        return _interrupted_by_host()
    if outcome is None:
        return _infrastructure(
            "the process that ran this task ended without an outcome",
            "The process that ran this task ended without an outcome: it was killed, or the host went down",
        )
    if outcome.phase == REFUSED:
        return Verdict(status=TaskStatus.FAILED, reason=outcome.error, notice=outcome.error, exit_code=1)
    if not outcome.has_ended_itself:
        return _not_begun(outcome)
    own = _own_end(outcome)
    return _blamed_on(fault, own) if fault and own.status is TaskStatus.FAILED else own


def _not_begun(outcome: Outcome) -> Verdict:
    """The user's process was never started."""
    first = next(iter(outcome.error.splitlines()), "")
    if outcome.infrastructure:
        notice = first and not outcome.told and f"Infrastructure failure, {outcome.phase}: {_paragraph(outcome.error)}"
        return _infrastructure(
            f"{outcome.phase}: {first}" if first else outcome.phase,
            notice or "This is a failure of the infrastructure, not of the task's code, which did not run",
        )
    return Verdict(
        status=TaskStatus.FAILED,
        reason=f"worker execution exit code 1: {outcome.phase} failed",
        notice=f"Process failed, exit code 1: {outcome.phase} failed" if outcome.told else outcome.error,
        exit_code=1,
    )


def _infrastructure(what: str, notice: str, *, own_code: int | None = None) -> Verdict:
    code = INFRASTRUCTURE_EXIT_CODE
    return Verdict(
        status=TaskStatus.FAILED,
        reason=f"worker execution exit code {code}: infrastructure failure: {what}",
        notice=f"{notice} (exit code {code})",
        exit_code=code,
        infrastructure=True,
        own_code=own_code,
    )


def _blamed_on(fault: str, own: Verdict) -> Verdict:
    """A process that failed on a host that was not fit is the host's failure."""
    fault = fault.rstrip(".")
    own_code = own.reason.removeprefix("worker execution ")
    return _infrastructure(
        f"{fault} (the process ended with {own_code})",
        f"{own.notice}, while its host was not fit: {fault}. This is a failure of the infrastructure",
        own_code=own.exit_code,
    )


def _paragraph(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


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


def stopped_by(cause: StopCause) -> Verdict:
    """The verdict on a task that was ended because of `cause`."""
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
        return stopped_by(StopCause.ABORT)
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
