"""Notices that a running task is to stop, by looking at its status on the server.

ClearML has no "stopping" state: the server leaves the task `in_progress` and writes "stopping" into its status
message; the agent acts and confirms. Looking never blocks anything else, and what looks alarming but may be a moment
between two calls (queued, created) is looked at twice.
"""

from __future__ import annotations

import asyncio
import logging

from agent.api import tasks
from agent.api.client import AsyncClient
from agent.api.server import Features
from agent.api.tasks import StatusLook
from agent.errors import AgentError
from agent.models import Task
from agent.runner.outcome import StopCause, is_of_another
from agent.states import TaskStatus

log = logging.getLogger(__name__)

HOLD_SECONDS = 20.0
SECOND_LOOK_SECONDS = 2.0
SHORTEST_POLL_SECONDS = 0.1
#: How long a script's wish for an abort callback is asked for before the task is stopped without.
LOOK_AGAIN_SECONDS = 10.0
GONE_ELSEWHERE = frozenset(
    {TaskStatus.STOPPED, TaskStatus.CLOSED, TaskStatus.FAILED, TaskStatus.PUBLISHING, TaskStatus.PUBLISHED}
)


def cause_in(look: StatusLook | None, *, worker: str = "") -> tuple[StopCause | None, bool]:
    """(why the task has to stop or None, whether one look is enough to be sure). `look` None: the task is gone.

    With `worker`, a task that another agent has started meanwhile is no longer that worker's: after a long outage it
    may have been reset and queued again. `completed` is no cause: scripts mark themselves completed and go on to
    upload their results.
    """
    if look is None:
        return StopCause.DELETED, False
    if look.status in GONE_ELSEWHERE or (worker and is_of_another(look, worker)):
        return StopCause.STATUS_CHANGED, True
    if look.status is TaskStatus.QUEUED:
        return StopCause.STATUS_CHANGED, False
    if look.status is TaskStatus.CREATED:
        return StopCause.RESET, False
    is_stopping = look.status is TaskStatus.IN_PROGRESS and "stopping" in look.message
    return StopCause.ABORT if is_stopping else None, True


async def watch_for_stop(
    api: AsyncClient, features: Features, task_id: str, *, poll_seconds: float, worker: str = ""
) -> StopCause:
    """Return the cause as soon as the task has to stop. Failures of looking are waited out."""
    poll_seconds = max(poll_seconds, SHORTEST_POLL_SECONDS)
    known: StatusLook | None = None
    while True:
        look = await _look(api, features, task_id, known)
        if not isinstance(look, AgentError):
            cause, is_sure = cause_in(look, worker=worker)
            if cause is not None and not is_sure:
                await asyncio.sleep(SECOND_LOOK_SECONDS)
                again = await _look(api, features, task_id, None)
                if isinstance(again, AgentError) or cause_in(again, worker=worker)[0] is not cause:
                    continue
            if cause is not None:
                return cause
            known = look
            if features.wait_for_status:
                continue
        await asyncio.sleep(poll_seconds)


async def _look(
    api: AsyncClient, features: Features, task_id: str, known: StatusLook | None
) -> StatusLook | AgentError | None:
    hold = HOLD_SECONDS if features.wait_for_status and known is not None else 0.0
    try:
        return await api.send(tasks.look(task_id, known=known, hold_seconds=hold))
    except AgentError as error:
        log.debug("cannot see the status of task %s: %s", task_id, error.message)
        return error


async def wait_for_abort_callback(api: AsyncClient, task_id: str, *, longest_seconds: float) -> None:
    """Give the task's own abort callback its time, as the SDK announces it in the task's runtime section.

    `_abort_callback_timeout` (seconds) is how long the script wants, `_abort_callback_completed` says it is done.
    """
    try:
        task = await api.send_until_answered(tasks.get_by_id(task_id), give_up_after=LOOK_AGAIN_SECONDS)
        wanted = _callback_seconds(task)
    except AgentError:
        return
    deadline = asyncio.get_running_loop().time() + min(wanted, longest_seconds)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(1.0)
        try:
            task = await api.send(tasks.get_by_id(task_id))
        except AgentError:
            continue
        if task.runtime.get("_abort_callback_completed"):
            return


def _callback_seconds(task: Task) -> float:
    try:
        timeout = float(task.runtime.get("_abort_callback_timeout") or 0)
        poll = float(task.runtime.get("_abort_poll_freq") or 0)
    except (TypeError, ValueError):
        return 0.0
    return timeout + poll if timeout > 0 else 0.0
