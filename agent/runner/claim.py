"""Takes the next task without ever losing one.

    look at the head of the queues  →  write claim.json (fsync)  →  pop that very task by name  →  read its status  →
    started

A pop is the one call that destroys something, so its name is on our disk before it is made, and a lost reply is
resolved by looking. On our own server the pop carries a token and may simply be repeated. A ClearML Server
before API 2.21 cannot pop by name; there the claim names the head of the queue, and the plain pop is made once.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from agent.api import queues, tasks
from agent.api.client import AsyncClient
from agent.api.queues import Queue, Waiting
from agent.api.server import Features
from agent.errors import AgentError, ApiError, BadTask, ReplyLost, ReplyUnreadable, ServerUnreachable
from agent.models import Outcome, Task
from agent.runner.outcome import REFUSED
from agent.runner.rundir import Claim, RunDirectory, Runs, about
from agent.states import RunPhase, TaskStatus
from agent.steps import Step, reached

log = logging.getLogger(__name__)

FIRST_VERSION_WITH_NAMED_POP = (2, 21)
UNKNOWN_QUEUE = 701
#: How long a competitor that took the task from under us may need until the server shows that it runs.
OTHERS_START_SECONDS = 10.0
#: How long, and how often after it has answered something else, a server may fail to show a task that it gave away.
SHOW_SECONDS = 20.0
SHOW_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where tasks come from: the queues in order of preference, and what the server can do."""

    queues: tuple[Queue, ...]
    features: Features
    api_version: tuple[int, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(queue.id for queue in self.queues)

    @property
    def can_pop_by_name(self) -> bool:
        return self.features.repeatable_pop or self.api_version >= FIRST_VERSION_WITH_NAMED_POP

    @property
    def holds_requests(self) -> bool:
        """Whether one request waits for a task; other servers are polled."""
        return self.features.wait_for_task and self.can_pop_by_name

    def name_of(self, queue_id: str) -> str:
        return next((queue.name for queue in self.queues if queue.id == queue_id), queue_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task that is ours, with its run directory; the server still says `queued`.

    `is_refused`: it is none that can be run. Its outcome is written already, and only has to be reported.
    """

    run: RunDirectory
    claim: Claim
    task: Task
    is_refused: bool = False


async def first_waiting(api: AsyncClient, source: Source, order: Sequence[str]) -> Waiting | None:
    """The first task of the first queue that has one, by asking one queue after the other."""
    if not source.can_pop_by_name:
        return await first_listed(api, order)
    for queue in order:
        try:
            waiting = await api.send(queues.peek(queue))
        except ApiError as error:
            if not error.is_(400, UNKNOWN_QUEUE):
                raise
            continue  # deleted a moment ago: whoever keeps the list of queues will say so
        if waiting is not None:
            return waiting
    return None


async def first_listed(api: AsyncClient, order: Sequence[str]) -> Waiting | None:
    """The same by listing the queues, for servers that know neither `peek_task` nor a named pop."""
    for queue in order:
        try:
            listed = await api.send(queues.entries(queue))
        except ApiError as error:
            if not error.is_(400, UNKNOWN_QUEUE):
                raise
            continue
        if listed:
            return Waiting(listed[0], queue)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims: the worker that will run the task, the agent that sees it through, and the devices it gets."""

    worker: str
    agent: str
    devices: tuple[str, ...] = ()


async def claim_task(
    api: AsyncClient, source: Source, runs: Runs, waiting: Waiting, *, claimant: Claimant
) -> Claimed | None:
    """Make `waiting` ours; None if somebody else has it or it is no longer to be run.

    The claim's directory is gone again in that case. Raises what the server raises; then the claim stays on the disk
    and recovery decides about it.
    """
    reached(Step.SEEN)
    run, claim = runs.create(claim_for(source, waiting, claimant))
    reached(Step.CLAIM_WRITTEN)
    if not await pop_for(api, source, claim):
        run.remove()
        return None
    reached(Step.POPPED)
    claim = run.advance(claim, RunPhase.CLAIMED)
    reached(Step.CLAIM_HELD)
    return await confirm(api, source.features, run, claim)


async def claim_unnamed(
    api: AsyncClient, source: Source, runs: Runs, waiting: Waiting, *, claimant: Claimant
) -> Claimed | None:
    """The plain pop of servers that know no other; it may give another task than the one that was seen waiting.

    If the reply is lost, the claim of the expected task stays on the disk, and recovery looks what became of it.
    """
    run, claim = runs.create(claim_for(source, waiting, claimant))
    popped = await api.send(queues.pop_any(waiting.queue))
    if popped is None or popped.task != waiting.task:
        run.remove()
    if popped is None:
        return None
    if popped.task != waiting.task:
        run, claim = runs.create(claim_for(source, popped, claimant))
    return await confirm(api, source.features, run, run.advance(claim, RunPhase.CLAIMED))


def claim_for(source: Source, waiting: Waiting, claimant: Claimant) -> Claim:
    """A new claim, not yet on the disk."""
    return Claim(
        task=waiting.task,
        attempt=0,
        worker=claimant.worker,
        agent=claimant.agent,
        devices=claimant.devices,
        queue=waiting.queue,
        queue_name=source.name_of(waiting.queue),
        token=uuid.uuid4().hex,
        phase=RunPhase.CLAIMING,
        claimed_at_ms=int(time.time() * 1000),
    )


async def pop_for(api: AsyncClient, source: Source, claim: Claim) -> bool:
    """Pop the claim's task; whatever happens to the reply, the answer is what really happened."""
    waiting = Waiting(claim.task, claim.queue)
    if source.features.repeatable_pop:
        return await api.send_until_answered(queues.pop(waiting, claim=claim.token))
    while True:
        try:
            return await api.send(queues.pop(waiting))
        except ServerUnreachable as error:
            if not isinstance(error, ReplyLost):
                await asyncio.sleep(1.0)
                continue
        except ApiError as error:
            if not error.is_server_fault:
                raise
        if not await _is_still_queued(api, claim):
            return await is_orphan(api, claim)


async def _is_still_queued(api: AsyncClient, claim: Claim) -> bool:
    try:
        return claim.task in await api.send_until_answered(queues.entries(claim.queue))
    except ApiError:
        return False


async def is_orphan(api: AsyncClient, claim: Claim) -> bool:
    """Whether a task that is in no queue any more stays `queued`: then nobody but us can have popped it.

    Somebody else who did would start it within seconds.
    """
    deadline = asyncio.get_running_loop().time() + OTHERS_START_SECONDS
    while await _is_queued_nowhere(api, claim):
        if asyncio.get_running_loop().time() > deadline:
            return True
        await asyncio.sleep(1.0)
    return False


async def is_ours(api: AsyncClient, features: Features, claim: Claim) -> bool:
    """Whether a task that we may have popped a while ago is ours, and nobody else is about to start it."""
    if features.repeatable_pop:
        return await is_still_ours(api, features, claim)
    return await is_orphan(api, claim)


async def is_still_ours(api: AsyncClient, features: Features, claim: Claim) -> bool:
    """Whether a task that we popped and did not start has stayed in our hands: nobody put it back into a queue."""
    if features.repeatable_pop:
        try:
            return await api.send_until_answered(queues.pop(Waiting(claim.task, claim.queue), claim=claim.token))
        except ApiError as error:
            log.warning("queue %s: %s", claim.queue_name, error.message, extra=about(claim))
            return False
    return await _is_queued_nowhere(api, claim)


async def _is_queued_nowhere(api: AsyncClient, claim: Claim) -> bool:
    try:
        place = await api.send_until_answered(tasks.place_of(claim.task))
    except ApiError:
        return False
    if place.status is not TaskStatus.QUEUED or place.queue not in ("", claim.queue):  # somebody has put it elsewhere
        return False
    return not await _is_still_queued(api, claim)


async def confirm(api: AsyncClient, features: Features, run: RunDirectory, claim: Claim) -> Claimed | None:
    """Read the popped task; it is run only if the server still says `queued`, and not in a queue again.

    Our server takes a task that starts out of its queue; elsewhere the entry would stay, and keep us from queueing the
    task again.
    """
    try:
        task = await _read_popped(api, claim)
    except (BadTask, ReplyUnreadable) as error:
        return await _refused(api, run, claim, error)
    except ApiError as error:
        log.warning("task %s was popped but cannot be read: %s", claim.task, error.message, extra=about(claim))
        run.remove()
        return None
    if task.status is not TaskStatus.QUEUED:
        log.info("task %s is %s, not queued: left alone", claim.task, task.status.value, extra=about(claim))
        run.remove()
        return None
    if not features.repeatable_pop and await _is_still_queued(api, claim):
        log.info("task %s has been queued again: left alone", claim.task, extra=about(claim))
        run.remove()
        return None
    run.write_task(task)
    reached(Step.TASK_WRITTEN)
    return Claimed(run=run, claim=claim, task=task)


async def _read_popped(api: AsyncClient, claim: Claim) -> Task:
    """The task. An outage is waited out; a server that answers everything but this is not waited for without end."""
    trouble: AgentError | None = None
    for _ in range(SHOW_TRIES):
        try:
            return await api.send_until_answered(tasks.get_by_id(claim.task), give_up_after=SHOW_SECONDS)
        except ReplyUnreadable:
            raise
        except (ServerUnreachable, ApiError) as error:
            if isinstance(error, ApiError) and not error.is_server_fault:
                raise
            trouble = error
        await api.send_until_answered(tasks.look(claim.task))  # answers once there is no outage any more
    raise BadTask("task", f"one that the server cannot show ({trouble and trouble.message})", "an object") from trouble


async def _refused(api: AsyncClient, run: RunDirectory, claim: Claim, error: AgentError) -> Claimed | None:
    """A task that nobody can run: it is started and failed, so that whoever waits for it sees why."""
    look = await api.send_until_answered(tasks.look(claim.task))
    if look is None or look.status is not TaskStatus.QUEUED:
        log.info("task %s is not queued any more: left alone", claim.task, extra=about(claim))
        run.remove()
        return None
    log.warning("task %s is refused: %s", claim.task, error.message, extra=about(claim, "refuse"))
    run.write_outcome(Outcome(phase=REFUSED, error=str(error), finished_at_ms=int(time.time() * 1000)))
    return Claimed(run=run, claim=claim, task=Task(id=claim.task, status=look.status), is_refused=True)
