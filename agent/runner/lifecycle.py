"""A task from the claim to its final status, seen from outside. Read `run_task` and `see_through`; the rest is detail.

    claimed ──started on the server──▶ launched ──executor gone──▶ concluded ──console shipped──▶ reported

`see_through` is the same for a run that this process launched and for one that an earlier process left running.
Cancelling either leaves the task alone: the executor goes on, and the next agent adopts the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.api import tasks
from agent.api.client import AsyncClient
from agent.api.server import Features
from agent.config.schema import Settings
from agent.errors import ApiError, ReplyLost, ServerUnreachable
from agent.models import ExecutorSetup, Task
from agent.runner.abort import wait_for_abort_callback, watch_for_stop
from agent.runner.claim import Claimed
from agent.runner.console import Console
from agent.runner.log_stream import LogStream
from agent.runner.machine import MachineSampler
from agent.runner.outcome import StopCause, Verdict, final_call, verdict_for
from agent.runner.rundir import Claim, RunDirectory
from agent.runner.sampler import report_resources
from agent.runner.writeback import send_back, write_back
from agent.runtimes.base import Handle, Runtime
from agent.states import ENDED, RunPhase

log = logging.getLogger(__name__)

#: After the grace, the executor itself has this long to reap everything before it is killed.
EXECUTOR_GRACE_SECONDS = 15.0

#: Tells the server what the worker runs now: (task id, queue id), None for nothing.
Announce = Callable[[str | None, str | None], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What every run of a worker shares.

    `end_task` is set when the agent is told to end its task and leave. `may_leave` is set while nothing would be left
    half done if the agent let go now.
    """

    api: AsyncClient
    features: Features
    runtime: Runtime
    settings: Settings
    worker: str
    executor_setup: ExecutorSetup
    executor_environ: Mapping[str, str]
    sampler: MachineSampler
    announce: Announce
    end_task: asyncio.Event = field(default_factory=asyncio.Event)
    may_leave: asyncio.Event = field(default_factory=asyncio.Event)


async def run_task(context: RunContext, claimed: Claimed) -> Verdict | None:
    """Start a claimed task and see it through; None if the server no longer wanted it to start."""
    run = claimed.run
    claim = await start_on_server(context, claimed)
    if claim is None:
        return None
    announced = asyncio.create_task(context.announce(claim.task, claim.queue))
    Console(run.console).note(
        f"task {claim.task} pulled from {claim.queue_name} by worker {context.worker}\nRunning task '{claim.task}'"
    )
    run.write_setup(context.executor_setup)
    handle = await context.runtime.launch(run.path, context.executor_environ)
    await announced
    return await see_through(context, run, claim, claimed.task, handle)


async def start_on_server(context: RunContext, claimed: Claimed) -> Claim | None:
    """queued → in_progress, once and not by force."""
    started = tasks.started(claimed.claim.task, reason="worker started execution", message="pulled by agent")
    try:
        await context.api.send_until_answered(started)
    except ApiError as error:
        log.info("task %s was not started: %s", claimed.claim.task, error.message)
        claimed.run.remove()
        return None
    return claimed.run.advance(claimed.claim, RunPhase.STARTED)


async def see_through(context: RunContext, run: RunDirectory, claim: Claim, task: Task, handle: Handle) -> Verdict:
    """Watch a running executor to its end and report it. The directory is left to the caller to remove."""
    context.may_leave.set()
    stream = LogStream(
        Console(run.console),
        context.api,
        context.features,
        task=claim.task,
        worker=context.worker,
        run=claim.token,
    )
    async with _beside(stream.run()) as shipping:
        async with (
            _beside(_end_when_asked(context, run, claim, handle)),
            _beside(_keep_alive(context, claim)),
            _beside(write_back(context.api, run, task)) as writing,
            _beside(_sample(context, claim)),
        ):
            await handle.wait()
        claim = run.advance(claim, RunPhase.EXITED)
        if not writing.done() or writing.cancelled():
            await send_back(context.api, task, run.read("environment") or {})
        verdict = conclude(run, claim)
        stream.finish()
        await shipping
    await report(context, claim, verdict)
    run.advance(claim, RunPhase.REPORTED)
    return verdict


def conclude(run: RunDirectory, claim: Claim) -> Verdict:
    """Judge how the run ended, and say it at the end of its console."""
    stop = run.read("stop")
    outcome = run.read_outcome()
    verdict = verdict_for(outcome, StopCause(stop["cause"]) if stop else None)
    Console(run.console).closing_note(verdict.notice, kind="i" if verdict.exit_code == 0 else "e")
    seconds = (int(time.time() * 1000) - claim.claimed_at_ms) / 1000
    log.info(
        "task %s: %s after %.1f s",
        claim.task,
        verdict.reason or verdict.notice,
        seconds,
        extra={"action": "task_ended", "task": claim.task, "exit_code": verdict.exit_code},
    )
    return verdict


async def report(context: RunContext, claim: Claim, verdict: Verdict) -> None:
    """Write the final status, however long it takes; a status that somebody else wrote meanwhile stands."""
    if verdict.status is not None:
        try:
            await context.api.send_until_answered(final_call(claim.task, verdict, worker=context.worker))
        except ApiError as error:
            look = await _status_now(context, claim.task)
            if look is None or look.status in ENDED:
                log.info("task %s was ended by somebody else: its status stands", claim.task)
            else:
                log.error("the final status of task %s was refused: %s", claim.task, error.message)
    await context.announce(None, None)


async def _status_now(context: RunContext, task_id: str) -> tasks.StatusLook | None:
    try:
        return await context.api.send_until_answered(tasks.look(task_id))
    except ApiError:
        return None


async def _end_when_asked(context: RunContext, run: RunDirectory, claim: Claim, handle: Handle) -> None:
    agent = context.settings.agent
    cause = await _first_cause(context, claim)
    if cause is StopCause.ABORT:
        await wait_for_abort_callback(context.api, claim.task, longest_seconds=agent.abort_callback_max_timeout_seconds)
    log.info("stopping task %s: %s", claim.task, cause.value, extra={"action": "stop", "task": claim.task})
    run.request_stop(cause.value)
    handle.stop()
    await asyncio.sleep(agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS)
    handle.kill()


async def _first_cause(context: RunContext, claim: Claim) -> StopCause:
    poll_seconds = context.settings.agent.status_poll_seconds
    told = asyncio.create_task(context.end_task.wait())
    seen = asyncio.create_task(watch_for_stop(context.api, context.features, claim.task, poll_seconds=poll_seconds))
    try:
        await asyncio.wait((told, seen), return_when=asyncio.FIRST_COMPLETED)
        return seen.result() if seen.done() else StopCause.SHUTDOWN
    finally:
        told.cancel()
        seen.cancel()


async def _keep_alive(context: RunContext, claim: Claim) -> None:
    interval = context.settings.agent.task_ping_interval_seconds
    while interval > 0:
        await asyncio.sleep(interval)
        with contextlib.suppress(ServerUnreachable, ReplyLost, ApiError):
            await context.api.send(tasks.ping(claim.task))


async def _sample(context: RunContext, claim: Claim) -> None:
    await report_resources(
        context.api,
        context.sampler,
        task=claim.task,
        worker=context.worker,
        every_seconds=context.settings.agent.status_report_interval_seconds,
    )


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` while the block runs; cancel what is left of it at the end. Its failure does not end the block."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a side loop of the task ended: %s", error, exc_info=error)
