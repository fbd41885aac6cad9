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
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from agent.api import tasks
from agent.api.client import AsyncClient, growing_pauses
from agent.api.server import Features
from agent.api.tasks import StatusLook
from agent.config.schema import Settings
from agent.errors import AgentError, ApiError
from agent.models import ExecutorSetup, Task
from agent.runner import retry
from agent.runner.abort import StatusBoard, wait_for_abort_callback
from agent.runner.claim import Claimed, confirm_stop, is_still_ours, put_back, reply_to
from agent.runner.console import Console
from agent.runner.log_stream import LogStream
from agent.runner.machine import MachineSampler
from agent.runner.outcome import (
    StopCause,
    Verdict,
    cause_of,
    final_call,
    in_view_of,
    is_of_another,
    is_stopping,
    signature,
    stopped_by,
    verdict_for,
)
from agent.runner.rundir import Claim, RunDirectory, about
from agent.runner.sampler import report_resources
from agent.runner.writeback import send_back, write_back
from agent.runtimes.base import Handle, Runtime
from agent.states import RunPhase, TaskStatus
from agent.steps import Step, reached
from agent.wire import number, shown

log = logging.getLogger(__name__)

T = TypeVar("T")

#: In the message of a task that the server's watchdog has stopped: it was silent, not ended by anybody.
NON_RESPONSIVE = "non-responsive"
#: After the grace, the executor itself has this long to reap everything before it is killed.
EXECUTOR_GRACE_SECONDS = 15.0

#: Tells the server what the worker runs now: (task id, queue id), None for nothing.
Announce = Callable[[str | None, str | None], Coroutine[Any, Any, None]]
#: Finds out anew how the host is.
Examine = Callable[[], Coroutine[Any, Any, None]]
#: Returns when the working hours want the task of a claim to end.
Closing = Callable[[Claim], Coroutine[Any, Any, StopCause]]


async def _never(claim: Claim) -> StopCause:
    never: asyncio.Future[StopCause] = asyncio.get_running_loop().create_future()
    return await never


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What every run of a worker shares.

    `worker` is who runs the task, `leases` are descriptors that the executor and the task hold open for as long as they
    live. `is_exclusive`: a task that another agent starts is no longer ours to run (several foreground agents may share
    one on purpose, the ranks of a batch job). `end_task` is set when the agent is told to end its tasks and leave.
    `closing` says when the working hours want the task of a claim to end, and how. `fault` is what is known to be wrong
    with the host of a claim's run (a sentence, or empty: a GPU that was lost), and `examine` looks anew.
    """

    api: AsyncClient
    features: Features
    board: StatusBoard
    runtime: Runtime
    settings: Settings
    worker: str
    executor_setup: ExecutorSetup
    executor_environ: Mapping[str, str]
    sampler: MachineSampler
    announce: Announce
    leases: tuple[int, ...] = ()
    is_exclusive: bool = True
    end_task: asyncio.Event = field(default_factory=asyncio.Event)
    closing: Closing = _never
    fault: Callable[[Claim], str] = lambda claim: ""
    examine: Examine = _nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A run with its executor, or with what an executor that is gone has left."""

    run: RunDirectory
    claim: Claim
    task: Task
    handle: Handle


class GoneHandle:
    """The handle of an executor that has already ended."""

    async def wait(self) -> None:
        return

    def stop(self) -> None:
        return

    def kill(self) -> None:
        return


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
    async with _beside(stream.run()) as shipping:
        async with (
            _beside(context.announce(claim.task, claim.queue)),
            _beside(_end_when_asked(context, run, claim, handle)),
            _beside(_keep_alive(context, claim)),
            _beside(write_back(context.api, run, task)) as writing,
            _beside(_sample(context, claim)),
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
    except ApiError:
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


async def _wait_before_retry(context: RunContext, run: RunDirectory, claim: Claim, verdict: Verdict) -> Verdict:
    """Let the delay go by, in the slot of the run. Who ends the task meanwhile has the last word."""
    since_ms = number((run.read("verdict") or {}).get("at_ms")) or 0.0
    left = min(verdict.delay_seconds, since_ms / 1000 + verdict.delay_seconds - time.time())
    worker = context.worker if context.is_exclusive else ""
    watching = context.board.watch_for_stop(claim.task, worker=worker, started=claim.started)
    async with (
        _beside(_keep_alive(context, claim)),
        _beside(watching) as seen,
        _beside(_set(context.end_task)) as told,
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
        task = await context.api.send_until_answered(tasks.get_by_id(claim.task))
        await context.api.send_until_answered(tasks.edit(claim.task, {"runtime": retry.counted(task.runtime, number)}))
    except ApiError as error:
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
        async with _beside(callback) as called, _beside(_set(context.end_task)) as told:
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
        _beside(watching) as seen,
        _beside(context.closing(claim)) as closed,
        _beside(_set(context.end_task)) as told,
    ):
        await asyncio.wait((told, seen, closed), return_when=asyncio.FIRST_COMPLETED)
        return seen.result() if seen.done() else StopCause.SHUTDOWN if told.done() else closed.result()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


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


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` while the block runs; cancel what is left of it at the end. Its failure does not end the block."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))  # unlike awaiting the task itself, this cannot swallow a cancellation of ours


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a side loop of the task ended: %s", error, exc_info=error)
