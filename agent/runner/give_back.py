"""A task that is ours goes back to its queue, or to whoever wants it to end; and calls whose fate may stay unknown.

An attempt whose reply was lost is not simply repeated: it is looked what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TypeVar

from agent.api import queues, tasks
from agent.api.client import AsyncClient, Call, growing_pauses
from agent.api.server import Features
from agent.errors import ApiError, ServerUnreachable
from agent.runner.claim import UNKNOWN_QUEUE, is_ours
from agent.runner.outcome import is_of_another, is_stopping, signature
from agent.runner.rundir import Claim, RunDirectory, about
from agent.states import TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)

T = TypeVar("T")

ALREADY_IN_QUEUE = 706


async def give_back(
    api: AsyncClient, features: Features, run: RunDirectory, claim: Claim, *, reason: str, force: bool = False
) -> None:
    """Put a task that never started back to the front of its queue, and forget the run."""
    await put_back(api, features, claim, reason=reason, force=force)
    run.remove()


async def put_back(api: AsyncClient, features: Features, claim: Claim, *, reason: str, force: bool = False) -> None:
    """Queue a task that is ours again, first in the queue it came from; by `force` if it is in progress.

    An attempt whose fate is not known is not simply repeated: if it was successful, another agent may run the task by
    now, and a repeat would queue it a second time.
    """
    reached(Step.GIVING_BACK)
    pauses = growing_pauses()
    while not await _try_to_queue(api, claim, reason=reason, force=force):
        await asyncio.sleep(next(pauses))
        if not await _is_still_to_be_queued(api, features, claim, force=force):
            break
    reached(Step.GIVEN_BACK)
    with contextlib.suppress(ApiError):
        await api.send_until_answered(queues.move_to_front(claim.queue, claim.task))
    reached(Step.MOVED_TO_FRONT)


async def _try_to_queue(api: AsyncClient, claim: Claim, *, reason: str, force: bool) -> bool:
    """Whether the server has decided about it.

    If the queue has been deleted meanwhile, the task is stopped: `queued` in no queue, nobody would ever look at it.
    """
    enqueue = tasks.enqueue(claim.task, claim.queue, reason=reason, force=force)
    try:
        return await reply_to(api, enqueue, about_claim=claim) is not None
    except ApiError as error:
        if not error.is_(400, ALREADY_IN_QUEUE):
            log.warning(
                "task %s could not be put back into queue %s: %s",
                claim.task,
                claim.queue_name,
                error.message,
                extra=about(claim),
            )
        return not error.is_(400, UNKNOWN_QUEUE) or await _try_to_stop(api, claim, f"queue {claim.queue_name} is gone")


async def _try_to_stop(api: AsyncClient, claim: Claim, reason: str) -> bool:
    """Whether the server has decided about it."""
    stopped = tasks.stopped(claim.task, reason=reason, message=signature(claim.worker))
    try:
        return await reply_to(api, stopped, about_claim=claim) is not None
    except ApiError as error:
        log.warning("%s", error.message, extra=about(claim))
        return True


async def _is_still_to_be_queued(api: AsyncClient, features: Features, claim: Claim, *, force: bool) -> bool:
    if not force:
        return await is_ours(api, features, claim)
    look = await api.send_until_answered(tasks.look(claim.task))
    if look is None or look.status is not TaskStatus.IN_PROGRESS:
        return False
    if is_stopping(look):
        await confirm_stop(api, claim)
        return False
    return not is_of_another(look, claim.worker, started=claim.started)


async def confirm_stop(api: AsyncClient, claim: Claim) -> None:
    """Write `stopped` for a task that a person wants to end and that does not run here (any more)."""
    for pause in growing_pauses():
        look = await api.send_until_answered(tasks.look(claim.task))
        if look is None or not is_stopping(look) or await _try_to_stop(api, claim, "task was stopped by tasks.stop"):
            return
        await asyncio.sleep(pause)


async def reply_to(api: AsyncClient, call: Call[T], *, about_claim: Claim) -> T | None:
    """Send a call once; None if it is not known whether the server acted on it. Raises refusals."""
    try:
        return await api.send(call)
    except ServerUnreachable as error:
        log.info("%s of task %s: %s", call.endpoint, about_claim.task, error.message, extra=about(about_claim))
    except ApiError as error:
        if not error.is_server_fault:
            raise
    return None
