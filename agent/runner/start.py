"""A claimed task becomes one that runs, on the server: once, and not over what somebody has said of it meanwhile."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from agent.api import tasks
from agent.api.client import growing_pauses
from agent.api.tasks import StatusLook
from agent.errors import ApiError
from agent.runner.claim import Claimed, is_still_ours
from agent.runner.context import RunContext
from agent.runner.give_back import confirm_stop, reply_to
from agent.runner.outcome import is_of_another, is_stopping, signature
from agent.runner.rundir import Claim, about
from agent.states import RunPhase, TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)


async def start_on_server(context: RunContext, claimed: Claimed) -> Claim | None:
    """queued → in_progress, once and not by force; None if the server does not want that any more."""
    try:
        started = await _start_once(context, claimed.claim)
    except ApiError as error:
        log.info("task %s was not started: %s", claimed.claim.task, error.message, extra=about(claimed.claim))
        claimed.run.remove()
        return None
    reached(Step.START_TOLD)
    claim = claimed.run.advance(replace(claimed.claim, started=started), RunPhase.STARTED)
    reached(Step.START_WRITTEN)
    return claim


async def _start_once(context: RunContext, claim: Claim) -> str:
    """The server's time of the start. Raises what forbids it.

    A call whose fate is not known is not simply repeated: meanwhile the task may have been aborted (a repeat would
    overwrite that), or given to another agent because nothing was heard of it. Where the server can compare, it does:
    elsewhere an abort in the moment between our look and this call is overruled. The word "stopping" hides whose start
    was seen, so nobody begins with a task that is to end.
    """
    token = claim.token if context.features.claimed_start and claim.queue else ""
    worker = signature(context.worker)
    call = tasks.started(claim.task, reason="worker started execution", message=worker, claim=token)
    pauses = growing_pauses()
    while (started := await reply_to(context.api, call, about_claim=claim)) is None:
        await asyncio.sleep(next(pauses))
        look = await context.api.send_until_answered(tasks.look(claim.task))
        if claim.queue and look is not None and is_stopping(look):
            await confirm_stop(context.api, claim)
            raise ApiError(call.endpoint, 400, 110, "a person wants it to end")
        if look is not None and _has_started(context, claim, look):
            return look.started
        if not await _may_start(context, claim, look):
            raise ApiError(call.endpoint, 400, 110, f"it is {look.status.value if look else 'gone'} by now")
    return started or await _when_it_started(context, claim)


async def _when_it_started(context: RunContext, claim: Claim) -> str:
    """A ClearML Server does not tell in its reply."""
    look = await context.api.send_until_answered(tasks.look(claim.task))
    return look.started if look is not None else ""


def _has_started(context: RunContext, claim: Claim, look: StatusLook) -> bool:
    if look.status is not TaskStatus.IN_PROGRESS or is_of_another(look, context.worker):
        return False
    return bool(claim.queue or look.message)  # what came from no queue may have been in progress before


async def _may_start(context: RunContext, claim: Claim, look: StatusLook | None) -> bool:
    if look is None or not claim.queue:
        return look is not None
    return look.status is TaskStatus.QUEUED and await is_still_ours(context.api, context.features, claim)
