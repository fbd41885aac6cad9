"""The worker: who it is, where its tasks come from, then one task after the other until it is told to go.

Two ways to go. SIGTERM: leave; a running task runs on and the next agent of this worker id adopts it, which is what a
restart, an upgrade or a service manager wants. SIGINT (Ctrl-C, `daemon --stop`): end the task, report it as stopped,
then leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.api import server
from agent.api.client import AsyncClient, Client
from agent.config.schema import Settings
from agent.errors import ApiError, CredentialsRefused, ServerUnreachable
from agent.models import ExecutorSetup, WorkerSetup
from agent.runner import recovery
from agent.runner.claim import Source, give_back
from agent.runner.lifecycle import EXECUTOR_GRACE_SECONDS, RunContext, run_task
from agent.runner.machine import GpuStats, MachineSampler, OneAtATime
from agent.runner.rundir import Runs
from agent.runtimes.base import Runtime
from agent.worker.identity import Identity
from agent.worker.poller import Outage, Poller, resolve_queues
from agent.worker.presence import Presence

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Calls that can be under way at once: the two that the server holds, and those of the side loops.
THREADS = 8
#: Pause after a task that somebody else took first.
AFTER_A_MISS_SECONDS = 0.2
#: How long leaving may take beyond the grace of a task.
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The two wishes of whoever ends the agent. `end_task` implies `leave`."""

    leave: asyncio.Event
    end_task: asyncio.Event


async def run_worker(
    setup: WorkerSetup,
    settings: Settings,
    identity: Identity,
    client: Client,
    runtime: Runtime,
    *,
    gpus: GpuStats | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Work until told to stop. Raises AgentError when it cannot begin."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    stop = listen_for_stop(loop)
    api = AsyncClient(client)
    try:
        source = await _unless_leaving(find_source(api, setup), stop)
        if source is not None:
            shared = OneAtATime(gpus) if gpus is not None else None
            presence = Presence(
                api,
                worker=identity.worker_id,
                queues=source.ids,
                tags=setup.child_report_tags,
                sampler=_sampler(settings, shared),
                interval_seconds=settings.agent.status_report_interval_seconds,
            )
            context = RunContext(
                api=api,
                features=source.features,
                runtime=runtime,
                settings=settings,
                worker=identity.worker_id,
                executor_setup=executor_setup(setup, identity.worker_id),
                executor_environ=dict(os.environ if environ is None else environ),
                sampler=_sampler(settings, shared),
                announce=presence.announce,
                end_task=stop.end_task,
            )
            await presence.register()
            identity.say(ready=True)
            await _serve(context, source, presence, setup, stop)
    finally:
        client.close()


def executor_setup(setup: WorkerSetup, worker_id: str) -> ExecutorSetup:
    """What every executor of this worker is told."""
    return ExecutorSetup(
        settings=setup.settings,
        worker_id=worker_id,
        environment=setup.gpu_environment,
        umask=setup.task_umask,
        optimize=setup.optimize,
        log_level=setup.log_level,
        standalone=setup.standalone,
    )


def _sampler(settings: Settings, gpus: GpuStats | None) -> MachineSampler:
    """One for each reader, because rates cover the time since the previous look of the same one."""
    return MachineSampler(disk_path=settings.agent.resource_monitoring.disk_use_path or "~", gpus=gpus)


async def _serve(context: RunContext, source: Source, presence: Presence, setup: WorkerSetup, stop: Stop) -> None:
    """Report and work until the work is done or somebody wants us to go."""
    agent = context.settings.agent
    runs = Runs(Path(agent.state_dir).expanduser() / "runs")
    names = ", ".join(queue.name for queue in source.queues)
    url = context.api.sync.base_url
    log.info("worker %s listens to %s on %s", context.worker, names, url, extra={"action": "ready"})
    poller = Poller(
        context.api,
        source,
        runs,
        worker=context.worker,
        polling_interval_seconds=setup.polling_interval_seconds or agent.polling_interval_seconds,
        order_fairness=setup.order_fairness,
    )
    reporting = asyncio.create_task(presence.run())
    working = asyncio.create_task(_work(context, source, runs, poller, stop))
    try:
        await _until_done_or_leaving(working, context, stop)
    finally:
        reporting.cancel()
        if not runs.of_worker(context.worker):  # a run that is left behind keeps its worker on the list
            await presence.unregister()


async def find_source(api: AsyncClient, setup: WorkerSetup) -> Source:
    """Ask the server what it can do, and which queues the names stand for."""
    claims = await asyncio.to_thread(lambda: api.sync.claims)
    return Source(
        queues=await resolve_queues(api, setup.queues, create=setup.create_queue),
        features=await server.features_of(api),
        api_version=_version_of(str(claims.get("api_version") or "")),
    )


def _version_of(text: str) -> tuple[int, ...]:
    """ "2.34" as (2, 34); what cannot be read counts as very old."""
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (2, 2)


def listen_for_stop(loop: asyncio.AbstractEventLoop) -> Stop:
    """From here on SIGTERM, SIGHUP and SIGINT are wishes, not deaths."""
    stop = Stop(leave=asyncio.Event(), end_task=asyncio.Event())

    def end_task() -> None:
        stop.end_task.set()
        stop.leave.set()

    loop.add_signal_handler(signal.SIGTERM, stop.leave.set)
    loop.add_signal_handler(signal.SIGHUP, stop.leave.set)
    loop.add_signal_handler(signal.SIGINT, end_task)
    return stop


async def _work(context: RunContext, source: Source, runs: Runs, poller: Poller, stop: Stop) -> None:
    """One task after the other, until told to leave: first what was left behind, by a previous agent or by trouble."""
    outage = Outage()
    while not stop.leave.is_set():
        try:
            for unfinished in await recovery.recover(context, source, runs):
                await recovery.finish(context, unfinished)
            await _next_task(context, runs, poller, stop, outage)
        except CredentialsRefused:
            raise
        except (ServerUnreachable, ApiError, OSError) as error:
            await _unless_leaving(outage.wait(error), stop)


async def _next_task(context: RunContext, runs: Runs, poller: Poller, stop: Stop, outage: Outage) -> None:
    """Wait for a task, make it ours, run it. What is claimed when something fails is left to recovery."""
    context.may_leave.set()
    waiting = await _unless_leaving(poller.next_waiting(), stop)
    outage.over()
    if waiting is None:
        return
    context.may_leave.clear()
    claimed = await poller.claim(waiting)
    if claimed is None:
        await _unless_leaving(asyncio.sleep(AFTER_A_MISS_SECONDS), stop)
    elif stop.leave.is_set():
        await give_back(context.api, claimed.run, claimed.claim, reason="given back by an agent that leaves")
    else:
        await run_task(context, claimed)
        await asyncio.to_thread(claimed.run.remove)


async def _unless_leaving(work: Coroutine[Any, Any, T], stop: Stop) -> T | None:
    """The result of `work`, or None as soon as the agent is told to leave."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(stop.leave.wait())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


async def _until_done_or_leaving(working: asyncio.Task[None], context: RunContext, stop: Stop) -> None:
    """Wait for the end of the work, or for the wish to leave.

    A task that is to be ended is given the time for that and for being reported. One that is to be left alone is let go
    of once nothing is half done (a claim is not left between the pop and the start).
    """
    leaving = asyncio.create_task(stop.leave.wait())
    await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not working.done() and stop.end_task.is_set():
        log.info("ending the task, then leaving", extra={"action": "stop"})
        grace = context.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS + REPORT_SECONDS
        await asyncio.wait((working,), timeout=grace)
    elif not working.done():
        letting_go = asyncio.create_task(context.may_leave.wait())
        await asyncio.wait((working, letting_go), timeout=REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        letting_go.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
