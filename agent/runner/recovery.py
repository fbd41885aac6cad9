"""What a previous daemon left in `runs/`: finished, adopted, or given back, before the first poll.

| phase of the claim | what is true                         | what is done                                            |
|--------------------|--------------------------------------|---------------------------------------------------------|
| claiming           | the pop may have happened            | ask the server; ours → as claimed, else forget          |
| claimed            | ours, not started                    | back to the front of its queue                          |
| started            | an executor lives                    | adopt                                                   |
|                    | it left an outcome                   | report it                                               |
|                    | it never began                       | back to the front of its queue; stopped if that was     |
|                    |                                      | asked for meanwhile                                     |
|                    | it died (kill -9, power)             | end what is left of the task, report it as failed       |
| exited             | outcome or death is known            | report                                                  |
| reported           |                                      | remove                                                  |

Much may have happened since: whatever is about to be given back or reported is looked at first. A task that was reset,
queued again, or started by another agent is not ours any more, and of its former run nothing is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from agent.api import tasks
from agent.api.tasks import StatusLook
from agent.errors import ApiError
from agent.models import Task
from agent.runner import claim as claiming
from agent.runner.context import GoneHandle, RunContext, Running
from agent.runner.give_back import give_back, put_back
from agent.runner.outcome import SIGNATURE, StopCause, is_of_another, is_stopping, signature
from agent.runner.rundir import Claim, RunDirectory, Runs, about
from agent.runtimes.base import Runtime
from agent.states import RunPhase, TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)


async def recover(
    context_for: Callable[[Claim], RunContext],
    runs: Runs,
    *,
    agent: str,
    under_way: Collection[Path] = (),
) -> list[Running]:
    """Settle the runs of an agent, apart from those that are under way; returns what is still to be seen through.

    `context_for` says what a claim's run is to be reported as.
    """
    for run in runs.not_understood():
        if run.path not in under_way:
            await _settle_unreadable(context_for, runs, run, agent)
    unfinished: list[Running] = []
    for run, claim in runs.of_agent(agent):
        if run.path not in under_way and (found := await _settle(context_for(claim), run, claim)) is not None:
            unfinished.append(found)
    return sorted(unfinished, key=lambda one: not isinstance(one.handle, GoneHandle))


async def _settle_unreadable(
    context_for: Callable[[Claim], RunContext], runs: Runs, run: RunDirectory, agent: str
) -> None:
    """A run without a claim that can be read: the disk was full or torn, or a newer agent wrote it.

    The name of the directory still says which task it is. If the server says that this agent runs it, a claim is
    written in place of the lost one, and the run is settled like any other. What belongs to nobody is moved aside.
    """
    claim = _claim_in_place_of(run, agent)
    context = context_for(claim)
    if await context.runtime.is_alive(run.path):
        look = await _look(context, claim)
        if look is not None and look.status is TaskStatus.IN_PROGRESS and (worker := _one_of(agent, look)):
            _rewrite_claim(run, replace(claim, worker=worker))
        return
    look = await _look(context, claim)
    if look is not None and look.status is TaskStatus.IN_PROGRESS:
        if worker := _one_of(agent, look):
            _rewrite_claim(run, replace(claim, worker=worker))
        else:
            log.warning("run %s has no claim that can be read, and is left to %s", run.path.name, look.message)
        return
    if look is not None and look.status is TaskStatus.QUEUED:
        await _queue_again(context, claim)
    await context.runtime.end_leftovers(run.path)
    try:
        kept = runs.set_aside(run)
    except FileNotFoundError:  # another agent of this host was faster
        return
    log.warning(
        "run %s cannot be understood (no claim of this version in it); its files are now in %s",
        run.path.name,
        kept,
        extra=about(claim, "set_aside"),
    )


def _claim_in_place_of(run: RunDirectory, agent: str) -> Claim:
    """A claim with what is known without the one that was lost."""
    return Claim(
        task=run.task_id,
        attempt=run.attempt,
        worker=agent,
        agent=agent,
        queue="",
        queue_name="a queue",
        token=run.path.name,
        phase=RunPhase.STARTED,
        claimed_at_ms=int((time.time() - run.age_seconds()) * 1000),
    )


def _one_of(agent: str, look: StatusLook) -> str:
    """The worker that has signed the start, if it is the agent or one of its services; else empty."""
    worker = look.message.removeprefix(SIGNATURE)
    is_ours = worker == agent or worker.startswith(f"{agent}:service:")
    return worker if look.message.startswith(SIGNATURE) and is_ours else ""


def _rewrite_claim(run: RunDirectory, claim: Claim) -> None:
    log.warning("run %s had no claim that can be read; the server says it is ours", run.path.name, extra=about(claim))
    broken = run.path / "claim.json"
    if broken.is_dir():
        broken.rename(f"{broken}.broken")
    run.write_claim(claim)


async def _queue_again(context: RunContext, claim: Claim) -> None:
    """A task that was taken from its queue, and the claim of it lost: it is put back if it is in no queue."""
    try:
        place = await context.api.send_until_answered(tasks.place_of(claim.task))
    except ApiError:
        return
    lost = replace(claim, queue=place.queue, queue_name=place.queue)
    if place.queue and await claiming.is_orphan(context.api, lost):
        await put_back(context.api, context.features, lost, reason="given back by a restarted agent")


async def _settle(context: RunContext, run: RunDirectory, claim: Claim) -> Running | None:
    log.info("found run %s in phase %s", run.path.name, claim.phase.value, extra=about(claim, "recover"))
    reached(Step.FOUND)
    match claim.phase:
        case RunPhase.CLAIMING:
            await _give_back_if_ours(context, run, claim)
        case RunPhase.CLAIMED:
            return await _settle_claimed(context, run, claim)
        case RunPhase.STARTED:
            return await _settle_started(context, run, claim)
        case RunPhase.EXITED:
            return await _settle_ended(context, run, claim)
        case RunPhase.REPORTED:
            await asyncio.to_thread(run.remove)
    return None


async def _settle_started(context: RunContext, run: RunDirectory, claim: Claim) -> Running | None:
    handle = await context.runtime.attach(run.path)
    task = run.read_task() or Task(id=claim.task)
    if handle is not None:
        log.info("task %s still runs: adopted", claim.task, extra=about(claim, "adopt"))
        return Running(run=run, claim=claim, task=task, handle=handle)
    if run.read_outcome() is None:
        if not run.has("launch") and not run.has("outcome"):
            return await _settle_unlaunched(context, run, claim, await _look(context, claim))
        if await context.runtime.end_leftovers(run.path):
            log.warning("ended what was left of task %s after its executor had died", claim.task, extra=about(claim))
    return await _settle_ended(context, run, claim)


async def _settle_ended(context: RunContext, run: RunDirectory, claim: Claim) -> Running | None:
    look = await _look(context, claim)
    if not _is_our_run(look, context.worker, claim):
        log.warning("task %s has begun anew since: its former run is not reported", claim.task, extra=about(claim))
        await asyncio.to_thread(run.remove)
        return None
    if look is not None and is_stopping(look):
        run.request_stop(StopCause.ABORT.value)
    return _ended(run, claim)


def _ended(run: RunDirectory, claim: Claim) -> Running:
    return Running(run=run, claim=claim, task=run.read_task() or Task(id=claim.task), handle=GoneHandle())


def _is_our_run(look: StatusLook | None, worker: str, claim: Claim) -> bool:
    if look is None or look.status in (TaskStatus.CREATED, TaskStatus.QUEUED):
        return False
    return not is_of_another(look, worker, started=claim.started)


async def _look(context: RunContext, claim: Claim) -> StatusLook | None:
    try:
        return await context.api.send_until_answered(tasks.look(claim.task))
    except ApiError as error:
        log.warning("%s", error.message, extra=about(claim))
        return None


async def _give_back_if_ours(context: RunContext, run: RunDirectory, claim: Claim) -> None:
    if await claiming.is_ours(context.api, context.features, claim):
        await _give_back(context, run, claim)
    else:
        run.remove()


async def _give_back(context: RunContext, run: RunDirectory, claim: Claim, *, force: bool = False) -> None:
    reason = "given back by a restarted agent"
    await give_back(context.api, context.features, run, claim, reason=reason, force=force)


async def _settle_claimed(context: RunContext, run: RunDirectory, claim: Claim) -> Running | None:
    look = await _look(context, claim)
    if look is None or look.status is not TaskStatus.QUEUED:  # perhaps `started` was sent and its phase not written
        return await _settle_unlaunched(context, run, claim, look)
    await _give_back_if_ours(context, run, claim)
    return None


async def _settle_unlaunched(
    context: RunContext, run: RunDirectory, claim: Claim, look: StatusLook | None
) -> Running | None:
    """If the server says `in_progress` and that it was us, nothing of the task has run: any agent may have it again."""
    if look is not None and is_stopping(look):
        run.request_stop(StopCause.ABORT.value)
        return _ended(run, claim)
    if _is_start_of_ours(look, context.worker, claim):
        log.warning("task %s was started but never launched: given back", claim.task, extra=about(claim, "give_back"))
        await _give_back(context, run, claim, force=True)
    else:
        run.remove()
    return None


def _is_start_of_ours(look: StatusLook | None, worker: str, claim: Claim) -> bool:
    if look is None or look.status is not TaskStatus.IN_PROGRESS or look.message != signature(worker):
        return False
    return not is_of_another(look, worker, started=claim.started)


async def end_left_behind(runtime: Runtime, runs: Runs, *, agent: str, grace_seconds: float) -> None:
    """End what a previous daemon left running, while the server is away; the next agent reports it."""
    started = [(run, claim) for run, claim in runs.of_agent(agent) if claim.phase is RunPhase.STARTED]
    await asyncio.gather(*(_end(runtime, run, claim, grace_seconds) for run, claim in started))


async def _end(runtime: Runtime, run: RunDirectory, claim: Claim, grace_seconds: float) -> None:
    handle = await runtime.attach(run.path)
    if handle is None:
        return
    log.info("stopping task %s: %s", claim.task, StopCause.SHUTDOWN.value, extra=about(claim, "stop"))
    run.request_stop(StopCause.SHUTDOWN.value)
    handle.stop()
    try:
        await asyncio.wait_for(handle.wait(), grace_seconds)
    except TimeoutError:
        handle.kill()
