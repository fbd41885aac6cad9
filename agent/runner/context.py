"""What a run needs from the agent that it belongs to, and what a run is while it is seen through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.api.client import AsyncClient
from agent.api.server import Features
from agent.config.schema import Settings
from agent.models import ExecutorSetup, Task
from agent.runner.abort import StatusBoard
from agent.runner.machine import MachineSampler
from agent.runner.outcome import StopCause
from agent.runner.rundir import Claim, RunDirectory
from agent.runtimes.base import Handle, Runtime

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
