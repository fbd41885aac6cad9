"""Notices that a running task is to stop, by looking at its status on the server.

ClearML has no "stopping" state: the server leaves the task `in_progress` and writes "stopping" into its status
message; the agent acts and confirms. Looking never blocks anything else, and what looks alarming but may be a moment
between two calls (queued, created) is looked at twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from agent.api import tasks
from agent.api.client import AsyncClient
from agent.api.server import Features
from agent.api.tasks import StatusLook
from agent.errors import AgentError
from agent.runner.outcome import StopCause, is_of_another, is_stopping
from agent.states import TaskStatus
from agent.wire import number

log = logging.getLogger(__name__)

HOLD_SECONDS = 20.0
SECOND_LOOK_SECONDS = 2.0
SHORTEST_POLL_SECONDS = 0.1
#: How long a script's wish for an abort callback is asked for before the task is stopped without.
LOOK_AGAIN_SECONDS = 10.0
GONE_ELSEWHERE = frozenset(
    {TaskStatus.STOPPED, TaskStatus.CLOSED, TaskStatus.FAILED, TaskStatus.PUBLISHING, TaskStatus.PUBLISHED}
)


def cause_in(look: StatusLook | None, *, worker: str = "", started: str = "") -> tuple[StopCause | None, bool]:
    """(why the task has to stop or None, whether one look is enough to be sure). `look` None: the task is gone.

    With `worker`, a task that has been started again since `started` is no longer that worker's: after a long outage it
    may have been reset and queued again. `completed` is no cause: scripts mark themselves completed and go on to
    upload their results.
    """
    if look is None:
        return StopCause.DELETED, False
    if look.status in GONE_ELSEWHERE or (worker and is_of_another(look, worker, started=started)):
        return StopCause.STATUS_CHANGED, True
    if look.status is TaskStatus.QUEUED:
        return StopCause.STATUS_CHANGED, False
    if look.status is TaskStatus.CREATED:
        return StopCause.RESET, False
    return StopCause.ABORT if is_stopping(look) else None, True


class StatusBoard:
    """What the server says of all tasks that an agent runs, by one request for all of them: fifty services are not
    fifty requests that the server holds, nor fifty threads here that wait for them.
    """

    def __init__(self, api: AsyncClient, features: Features, *, poll_seconds: float) -> None:
        self._api = api
        self._features = features
        self._poll_seconds = max(poll_seconds, SHORTEST_POLL_SECONDS)
        self._watched: dict[str, int] = {}
        self._seen: dict[str, StatusLook | None] = {}
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def watch_for_stop(self, task_id: str, *, worker: str = "", started: str = "") -> StopCause:
        """Return the cause as soon as the task has to stop. Failures of looking are waited out."""
        with self._watching(task_id):
            dismissed: list[StatusLook | None] = []
            while True:
                look = await self._next(task_id, dismissed)
                cause, is_sure = cause_in(look, worker=worker, started=started)
                if cause is not None and (is_sure or await self._is_confirmed(task_id, cause, worker, started)):
                    return cause
                dismissed = [look]

    async def _next(self, task_id: str, dismissed: list[StatusLook | None]) -> StatusLook | None:
        """What was seen of a task, once it is something else than what was dismissed."""
        while task_id not in self._seen or self._seen[task_id] in dismissed:
            await self._news.wait()
        return self._seen[task_id]

    async def _is_confirmed(self, task_id: str, cause: StopCause, worker: str, started: str) -> bool:
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        try:
            again = await self._api.send(tasks.look(task_id))
        except AgentError:
            self._seen.pop(task_id, None)
            return False
        self._seen[task_id] = again
        return cause_in(again, worker=worker, started=started)[0] is cause

    @contextlib.contextmanager
    def _watching(self, task_id: str) -> Iterator[None]:
        self._watched[task_id] = self._watched.get(task_id, 0) + 1
        self._look_anew()
        try:
            yield
        finally:
            self._watched[task_id] -= 1
            if not self._watched[task_id]:
                del self._watched[task_id]
                self._seen.pop(task_id, None)
                self._look_anew()

    def _look_anew(self) -> None:
        """Give up a request that is held, since it asks for other tasks than are watched now."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.create_task(self._look_on()) if self._watched else None

    async def _look_on(self) -> None:
        while True:
            watched = tuple(self._watched)
            known = {task: look for task in watched if (look := self._seen.get(task)) is not None}
            hold = HOLD_SECONDS if self._features.wait_for_status and len(known) == len(watched) else 0.0
            try:
                found = await self._api.send(tasks.look_at(watched, known=known, hold_seconds=hold))
            except AgentError as error:
                log.debug("cannot see the status of %d tasks: %s", len(watched), error.message)
                await asyncio.sleep(self._poll_seconds)
                continue
            self._seen |= {task: found.get(task) for task in watched}
            self._news.set()
            self._news.clear()
            if not self._features.wait_for_status or len(found) < len(watched):
                await asyncio.sleep(self._poll_seconds)


async def wait_for_abort_callback(api: AsyncClient, task_id: str, *, longest_seconds: float) -> None:
    """Give the task's own abort callback its time, as the SDK announces it in the task's runtime section.

    `_abort_callback_timeout` (seconds) is how long the script wants, `_abort_callback_completed` says it is done.
    """
    try:
        runtime = await api.send_until_answered(tasks.runtime_of(task_id), give_up_after=LOOK_AGAIN_SECONDS)
    except AgentError:
        return
    deadline = asyncio.get_running_loop().time() + min(_callback_seconds(runtime), longest_seconds)
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(1.0)
        try:
            runtime = await api.send(tasks.runtime_of(task_id))
        except AgentError:
            continue
        if runtime.get("_abort_callback_completed"):
            return


def _callback_seconds(runtime: Mapping[str, Any]) -> float:
    timeout, poll = _seconds(runtime.get("_abort_callback_timeout")), _seconds(runtime.get("_abort_poll_freq"))
    return timeout + poll if timeout > 0 else 0.0


def _seconds(value: object) -> float:
    """A number, also where it was written as a text."""
    try:
        return number(float(value) if isinstance(value, str) else value) or 0.0
    except ValueError:
        return 0.0
