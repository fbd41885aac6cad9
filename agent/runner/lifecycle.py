"""A task from the claim to its final status, seen from outside. Read `run_task` and `see_through`; the rest is detail.

    claimed ──started on the server──▶ launched ──executor gone──▶ concluded ──console shipped──▶ reported
                                                                       └─ to be retried: the delay ─┘

`see_through` is the same for a run that this process launched and for one that an earlier process left running.
Cancelling either leaves the task alone: the executor goes on, and the next agent adopts the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from agent.api import tasks
from agent.errors import AgentError
from agent.runner import retry
from agent.runner.abort import wait_for_abort_callback
from agent.runner.beside import beside, is_set
from agent.runner.claim import Claimed
from agent.runner.console import Console
from agent.runner.context import GoneHandle, RunContext, Running
from agent.runner.judging import conclude, say_end
from agent.runner.log_stream import LogStream
from agent.runner.outcome import StopCause, Verdict, stopped_by
from agent.runner.report import report
from agent.runner.rundir import Claim, RunDirectory, about
from agent.runner.sampler import report_resources
from agent.runner.start import start_on_server
from agent.runner.writeback import send_back, write_back
from agent.runtimes.base import Handle
from agent.states import RunPhase, TaskStatus
from agent.steps import Step, reached
from agent.wire import number, shown

log = logging.getLogger(__name__)

#: After the grace, the executor itself has this long to reap everything before it is killed.
EXECUTOR_GRACE_SECONDS = 15.0


async def run_task(context: RunContext, claimed: Claimed) -> Verdict | None:
    """Start a claimed task and see it through; None if the server no longer wanted it to start."""
    running = await launch(context, claimed)
    return await see_through(context, running) if running is not None else None


async def launch(context: RunContext, claimed: Claimed) -> Running | None:
    """Start a claimed task; None if the server no longer wants that. Not to be left half done."""
    run = claimed.run
    claim = await start_on_server(context, claimed)
    if claim is None:
        return None
    queue = shown(claim.queue_name)
    Console(run.console).note(
        f"task {claim.task} pulled from {queue} by worker {context.worker}\nRunning task '{claim.task}'"
    )
    if claimed.is_refused:
        return Running(run=run, claim=claim, task=claimed.task, handle=GoneHandle())
    if warning := retry.why_unreadable(claimed.task):
        Console(run.console).note(warning, kind="w")
    run.write_setup(context.executor_setup)
    reached(Step.SETUP_WRITTEN)
    handle = await context.runtime.launch(run.path, context.executor_environ, keep=context.leases)
    reached(Step.EXECUTOR_STARTED)
    return Running(run=run, claim=claim, task=claimed.task, handle=handle)


async def see_through(context: RunContext, running: Running) -> Verdict:
    """Watch an executor to its end and report it. The directory is left to the caller to remove."""
    run, claim, task, handle = running.run, running.claim, running.task, running.handle
    stream = LogStream(
        Console(run.console),
        context.api,
        context.features,
        task=claim.task,
        worker=context.worker,
        run=claim.token,
    )
    async with beside(stream.run()) as shipping:
        async with (
            beside(context.announce(claim.task, claim.queue)),
            beside(_end_when_asked(context, run, claim, handle)),
            beside(_keep_alive(context, claim)),
            beside(write_back(context.api, run, task)) as writing,
            beside(_sample(context, claim)),
        ):
            await handle.wait()
        reached(Step.EXECUTOR_GONE)
        await context.examine()
        run.ensure()
        if run.read_outcome() is None and await context.runtime.end_leftovers(run.path):
            log.warning("ended what was left of task %s after its executor had died", claim.task, extra=about(claim))
        claim = run.advance(claim, RunPhase.EXITED)
        reached(Step.EXIT_WRITTEN)
        verdict = await conclude(context, run, claim, task)
        reached(Step.END_NOTED)
        if verdict.retry:
            verdict = await _wait_before_retry(context, run, claim, verdict)
        stream.finish()
        if writing.cancelled() and verdict.status is not None:
            await send_back(context.api, task, run.read("environment") or {})
        await shipping
    reached(Step.CONSOLE_DONE)
    await report(context, claim, verdict)
    reached(Step.END_TOLD)
    run.advance(claim, RunPhase.REPORTED)
    reached(Step.REPORT_WRITTEN)
    return verdict


async def give_up(context: RunContext, running: Running, why: str) -> None:
    """Report as failed what cannot be seen through, once its executor has ended."""
    await running.handle.wait()
    await report(context, running.claim, Verdict(status=TaskStatus.FAILED, reason=why, notice=why, exit_code=1))


async def _wait_before_retry(context: RunContext, run: RunDirectory, claim: Claim, verdict: Verdict) -> Verdict:
    """Let the delay go by, in the slot of the run. Who ends the task meanwhile has the last word."""
    since_ms = number((run.read("verdict") or {}).get("at_ms")) or 0.0
    left = min(verdict.delay_seconds, since_ms / 1000 + verdict.delay_seconds - time.time())
    worker = context.worker if context.is_exclusive else ""
    watching = context.board.watch_for_stop(claim.task, worker=worker, started=claim.started)
    async with (
        beside(_keep_alive(context, claim)),
        beside(watching) as seen,
        beside(is_set(context.end_task)) as told,
    ):
        await asyncio.wait((seen, told), timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
        cause = seen.result() if seen.done() else StopCause.SHUTDOWN if told.done() else None
    if cause is None:
        reached(Step.RETRY_DUE)
        return verdict
    verdict = stopped_by(cause)
    run.write_verdict(verdict)
    say_end(run, claim, verdict)
    return verdict


async def _end_when_asked(context: RunContext, run: RunDirectory, claim: Claim, handle: Handle) -> None:
    agent = context.settings.agent
    cause = await _first_cause(context, claim)
    reached(Step.STOP_SEEN)
    run.request_stop(cause.value)
    reached(Step.STOP_WRITTEN)
    if cause is StopCause.ABORT:
        callback = wait_for_abort_callback(
            context.api, claim.task, longest_seconds=agent.abort_callback_max_timeout_seconds
        )
        async with beside(callback) as called, beside(is_set(context.end_task)) as told:
            await asyncio.wait((called, told), return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping task %s: %s", claim.task, cause.value, extra=about(claim, "stop"))
    handle.stop()
    reached(Step.STOP_SENT)
    await asyncio.sleep(agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS)
    handle.kill()


async def _first_cause(context: RunContext, claim: Claim) -> StopCause:
    worker = context.worker if context.is_exclusive else ""
    watching = context.board.watch_for_stop(claim.task, worker=worker, started=claim.started)
    async with (
        beside(watching) as seen,
        beside(context.closing(claim)) as closed,
        beside(is_set(context.end_task)) as told,
    ):
        await asyncio.wait((told, seen, closed), return_when=asyncio.FIRST_COMPLETED)
        return seen.result() if seen.done() else StopCause.SHUTDOWN if told.done() else closed.result()


async def _keep_alive(context: RunContext, claim: Claim) -> None:
    interval = context.settings.agent.task_ping_interval_seconds
    while interval > 0:
        await asyncio.sleep(interval)
        with contextlib.suppress(AgentError):
            await context.api.send(tasks.ping(claim.task))


async def _sample(context: RunContext, claim: Claim) -> None:
    await report_resources(
        context.api,
        context.sampler,
        task=claim.task,
        worker=context.worker,
        every_seconds=context.settings.agent.status_report_interval_seconds,
        started_ms=claim.claimed_at_ms,
    )
