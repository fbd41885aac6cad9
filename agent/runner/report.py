"""How a run ended, told to the server: the final status, or back into the queue.

However long it takes, and never over the status that somebody else has written meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from agent.api import tasks
from agent.api.client import growing_pauses
from agent.api.tasks import StatusLook
from agent.errors import ApiError, ReplyUnreadable
from agent.runner import retry
from agent.runner.context import RunContext
from agent.runner.give_back import put_back, reply_to
from agent.runner.outcome import Verdict, final_call, in_view_of, is_of_another, is_stopping
from agent.runner.rundir import Claim, about
from agent.states import TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)

#: In the message of a task that the server's watchdog has stopped: it was silent, not ended by anybody.
NON_RESPONSIVE = "non-responsive"


async def report(context: RunContext, claim: Claim, verdict: Verdict) -> None:
    """Write the final status, however long it takes; a status that somebody else wrote meanwhile stands."""
    if verdict.status is not None:
        try:
            await _report_until_told(context, claim, verdict)
        except ApiError as error:
            log.error("the final status of task %s was refused: %s", claim.task, error.message, extra=about(claim))
    await context.announce(None, None)


async def _report_until_told(context: RunContext, claim: Claim, verdict: Verdict) -> None:
    for pause in growing_pauses():
        look = await context.api.send_until_answered(tasks.look(claim.task))
        if look is None or not _awaits_our_status(context, claim, look):
            log.info(
                "task %s is %s by now, and not by us: its status stands",
                claim.task,
                look.status.value if look else "gone",
                extra=about(claim),
            )
            return
        if await _tell(context, claim, in_view_of(look, verdict, started=claim.started)):
            return
        await asyncio.sleep(pause)


async def _tell(context: RunContext, claim: Claim, verdict: Verdict) -> bool:
    """False if it is not known whether the server has heard it."""
    if verdict.status is TaskStatus.QUEUED:
        return await _queue_again(context, claim, verdict)
    call = final_call(claim.task, verdict, worker=context.worker)
    return await reply_to(context.api, call, about_claim=claim) is not None


async def _queue_again(context: RunContext, claim: Claim, verdict: Verdict) -> bool:
    """Put a task back into its queue; False if that is to be looked at again.

    A retry is counted on the server before, by its number, so that an agent that dies in between counts it once.
    """
    if verdict.retry:
        if refusal := await _count(context, claim, verdict.retry):
            log.error("task %s is not retried: %s", claim.task, refusal, extra=about(claim))
            reason = f"{verdict.reason}; the retry cannot be counted"
            return await _tell(context, claim, replace(verdict, status=TaskStatus.FAILED, reason=reason))
        look = await context.api.send_until_answered(tasks.look(claim.task))
        if look is None or is_stopping(look) or not _awaits_our_status(context, claim, look):
            return False
    await put_back(context.api, context.features, claim, reason=verdict.reason, force=True)
    return True


async def _count(context: RunContext, claim: Claim, number: int) -> str:
    """Note the number of a retry in the task; returns why the server does not take it, or nothing."""
    try:
        runtime = await context.api.send_until_answered(tasks.runtime_of(claim.task))
        await context.api.send_until_answered(tasks.edit(claim.task, {"runtime": retry.counted(runtime, number)}))
    except (ApiError, ReplyUnreadable) as error:
        return error.message
    reached(Step.RETRY_COUNTED)
    return ""


def _awaits_our_status(context: RunContext, claim: Claim, look: StatusLook) -> bool:
    """Whether the server still takes the task to be running here.

    The table of the states alone would let us turn a task that was stopped, or queued again, into a completed one.
    """
    if look.status is TaskStatus.IN_PROGRESS:
        return not is_of_another(look, context.worker, started=claim.started)
    return look.status is TaskStatus.STOPPED and NON_RESPONSIVE in look.message
