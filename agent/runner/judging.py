"""What a run has come to: judged once, by what it left on the disk and by its task's retry policy, and said."""

from __future__ import annotations

import logging
import time

from agent.api import tasks
from agent.errors import ApiError, BadTask, ReplyUnreadable
from agent.models import Task
from agent.runner import retry
from agent.runner.console import Console
from agent.runner.context import RunContext
from agent.runner.outcome import Verdict, cause_of, verdict_for
from agent.runner.rundir import Claim, RunDirectory, about
from agent.states import TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)


async def conclude(context: RunContext, run: RunDirectory, claim: Claim, task: Task) -> Verdict:
    """Judge how the run ended, and say it at the end of its console. What was judged once stands, whoever goes on."""
    known = run.read_verdict()
    verdict = known or await _judge(context, run, claim, task)
    if known is None:
        run.write_verdict(verdict)
    reached(Step.VERDICT_WRITTEN)
    say_end(run, claim, verdict)
    return verdict


async def _judge(context: RunContext, run: RunDirectory, claim: Claim, task: Task) -> Verdict:
    """The verdict on a run, and whether it is to be followed by another one. Nobody tries again what he ended."""
    verdict = judge(run, fault=context.fault(claim))
    if verdict.status is not TaskStatus.FAILED or run.read("stop"):
        return verdict
    try:
        now = await context.api.send_until_answered(tasks.get_by_id(claim.task))
    except (ApiError, BadTask, ReplyUnreadable):  # gone, or edited into something that is no task
        now = task
    # The count is that of the start of this run: what a script makes of its `runtime` cannot give it more retries.
    done = max(retry.count_of(task), retry.count_of(now))
    return retry.decide(verdict, now, done=done, has_queue=bool(claim.queue))


def judge(run: RunDirectory, *, fault: str = "") -> Verdict:
    """The verdict on a run by what it left on the disk."""
    return verdict_for(run.read_outcome(), cause_of(run.read("stop")), fault=fault)


def say_end(run: RunDirectory, claim: Claim, verdict: Verdict) -> None:
    """Say how the run ended, to those who read the task's console and to those who read our log."""
    Console(run.console).closing_note(verdict.notice, kind="i" if verdict.exit_code == 0 else "e")
    seconds = (int(time.time() * 1000) - claim.claimed_at_ms) / 1000
    log.info(
        "task %s: %s after %.1f s",
        claim.task,
        verdict.reason or verdict.notice,
        seconds,
        extra={**about(claim, "task_ended"), "exit_code": verdict.exit_code},
    )
