"""The worker: who it is, where its tasks come from, then one task after the other until it is told to go.

Three ways to go (`signals.py`). SIGTERM: leave; a running task runs on and the next agent of this worker id adopts it,
which is what a restart, an upgrade or a service manager wants. SIGINT (Ctrl-C, `daemon --stop`): end the task, report
it as stopped, then leave. SIGUSR1: drain, that is finish the task, take no other, then leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.api import server
from agent.api.client import AsyncClient, Client
from agent.config.schema import Settings
from agent.errors import ApiError, CredentialsRefused, ServerUnreachable
from agent.logs import name_worker
from agent.models import ExecutorSetup, Task, WorkerSetup
from agent.runner import recovery
from agent.runner.claim import Source, give_back
from agent.runner.lifecycle import EXECUTOR_GRACE_SECONDS, RunContext, run_task
from agent.runner.machine import GpuStats, MachineSampler, OneAtATime
from agent.runner.rundir import Claim, Runs
from agent.runtimes.base import Runtime
from agent.worker.identity import Identity
from agent.worker.marks import Drain, Failures
from agent.worker.poller import Outage, Poller, resolve_queues
from agent.worker.presence import Presence
from agent.worker.service import Supervisor, for_children
from agent.worker.signals import Stop, listen_for_stop, unless
from agent.worker.start import back_off, counted, prove, take_turn, when_reachable

log = logging.getLogger(__name__)

#: Calls that can be under way at once: the two that the server holds, and those of the side loops.
THREADS = 8
#: Pause after a task that somebody else took first.
AFTER_A_MISS_SECONDS = 0.2
#: How long leaving may take beyond the grace of a task.
REPORT_SECONDS = 10.0
#: Who ends everything of a unit signals one process after the other; the executor gets its turn within this time.
SAME_SIGNAL_SECONDS = 0.5
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What an agent is and has before it knows the server."""

    setup: WorkerSetup
    settings: Settings
    identity: Identity
    api: AsyncClient
    runtime: Runtime
    runs: Runs
    supervisor: Supervisor
    stop: Stop
    gpus: GpuStats | None
    environ: Mapping[str, str]

    def has_runs(self) -> bool:
        """Whether a run of this worker is still to be seen through."""
        return bool(self.runs.of_worker(self.identity.worker_id))


async def run_worker(
    setup: WorkerSetup,
    settings: Settings,
    client: Client,
    runtime: Runtime,
    *,
    supervisor: Supervisor,
    gpus: GpuStats | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Work until told to stop. Raises AgentError when it cannot begin."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    stop = listen_for_stop(loop)
    try:
        async with _beside(supervisor.feed_watchdog()):
            identity = await take_turn(settings.agent, setup, supervisor, stop)
            if identity is not None:
                post = Post(
                    setup=setup,
                    settings=settings,
                    identity=identity,
                    api=AsyncClient(client),
                    runtime=runtime,
                    runs=Runs(Path(settings.agent.state_dir).expanduser() / "runs"),
                    supervisor=supervisor,
                    stop=stop,
                    gpus=OneAtATime(gpus) if gpus is not None else None,
                    environ=for_children(os.environ if environ is None else environ),
                )
                await _hold(post)
    finally:
        supervisor.stopping()
        client.close()


async def _hold(post: Post) -> None:
    """Be this worker until told to go, and leave the marks that the next agent of its id has to know of."""
    name_worker(post.identity.worker_id)
    failures, drain = Failures(post.identity.record), Drain(post.identity.record)
    if drain.is_wanted():
        post.stop.wish_drain()
    try:
        with counted(failures, post.supervisor):
            async with _beside(_mark_drain(post, drain)):
                await back_off(failures, post.supervisor, post.stop)
                await _begin(post, failures)
            if post.stop.drain.is_set():
                _end_drain(post, drain)
    finally:
        post.identity.release()


async def _mark_drain(post: Post, drain: Drain) -> None:
    """Once told to drain, see that a crash does not change it."""
    await post.stop.drain.wait()
    drain.begin()
    log.info("draining: no further task is taken", extra={"action": "drain"})
    post.supervisor.draining()


def _end_drain(post: Post, drain: Drain) -> None:
    if post.has_runs() and not post.stop.end_task.is_set():
        drain.leave()
    else:
        drain.remove()
        log.info("drained", extra={"action": "drained"})


async def _begin(post: Post, failures: Failures) -> None:
    """Find the server and the queues, then serve. Nothing of that is needed by an agent that has nothing to do."""
    stop = post.stop

    def is_over() -> bool:
        return stop.leave.is_set() or (stop.drain.is_set() and not post.has_runs())

    connected = await when_reachable(lambda: _connect(post), post.supervisor, stop, is_over=is_over)
    if connected is None:
        if stop.end_task.is_set():
            await recovery.end_left_behind(
                post.runtime,
                post.runs,
                worker=post.identity.worker_id,
                grace_seconds=post.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS,
            )
        return
    source, presence = connected
    context = RunContext(
        api=post.api,
        features=source.features,
        runtime=post.runtime,
        settings=post.settings,
        worker=post.identity.worker_id,
        executor_setup=executor_setup(post.setup, post.identity.worker_id),
        executor_environ=post.environ,
        sampler=_sampler(post.settings, post.gpus),
        announce=presence.announce,
        end_task=stop.end_task,
    )
    post.identity.say(ready=True)
    post.supervisor.ready()
    async with _beside(prove(failures, post.supervisor)):
        await _serve(post, context, source, presence)


async def _connect(post: Post) -> tuple[Source, Presence]:
    """Ask the server what there is to know, and register with it."""
    source = await find_source(post.api, post.setup)
    presence = Presence(
        post.api,
        worker=post.identity.worker_id,
        queues=source.ids,
        tags=post.setup.child_report_tags,
        sampler=_sampler(post.settings, post.gpus),
        interval_seconds=post.settings.agent.status_report_interval_seconds,
    )
    await presence.register()
    return source, presence


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


async def _serve(post: Post, context: RunContext, source: Source, presence: Presence) -> None:
    """Report and work until the work is done or somebody wants us to go."""
    agent = context.settings.agent
    url = context.api.sync.base_url
    log.info("worker %s listens to %s on %s", context.worker, _names(source), url, extra={"action": "ready"})
    poller = Poller(
        context.api,
        source,
        post.runs,
        worker=context.worker,
        polling_interval_seconds=post.setup.polling_interval_seconds or agent.polling_interval_seconds,
        order_fairness=post.setup.order_fairness,
    )
    working = asyncio.create_task(_work(post, context, source, poller))
    try:
        async with _beside(presence.run()), _beside(_tell_of_drain(post.stop, presence)):
            await _until_done_or_leaving(working, post, context)
    finally:
        if not post.has_runs():  # a run that is left behind keeps its worker on the list
            await presence.unregister()


async def _tell_of_drain(stop: Stop, presence: Presence) -> None:
    await stop.drain.wait()
    await presence.tell_of_drain()


def _names(source: Source) -> str:
    return ", ".join(queue.name for queue in source.queues)


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


async def _work(post: Post, context: RunContext, source: Source, poller: Poller) -> None:
    """One task after the other, until told to go: first what was left behind, by a previous agent or by trouble."""
    stop = post.stop
    outage = Outage(post.supervisor.status)
    while not stop.leave.is_set():
        try:
            for unfinished in await recovery.recover(context, source, post.runs):
                post.supervisor.status(_running(unfinished.claim, unfinished.task))
                await recovery.finish(context, unfinished)
            if stop.drain.is_set():
                return
            if not outage.is_on:
                post.supervisor.status(f"idle, queues {_names(source)}")
            await _next_task(post, context, poller, outage)
        except CredentialsRefused:
            raise
        except (ServerUnreachable, ApiError, OSError) as error:
            await unless(outage.wait(error), stop.next_wish)


async def _next_task(post: Post, context: RunContext, poller: Poller, outage: Outage) -> None:
    """Wait for a task, make it ours, run it. What is claimed when something fails is left to recovery."""
    stop = post.stop
    context.may_leave.set()
    waiting = await unless(poller.next_waiting(), stop.no_more)
    outage.over()
    if waiting is None:
        return
    context.may_leave.clear()
    claimed = await poller.claim(waiting)
    if claimed is None:
        await unless(asyncio.sleep(AFTER_A_MISS_SECONDS), stop.no_more)
    elif stop.no_more.is_set():
        await give_back(context.api, claimed.run, claimed.claim, reason="given back by an agent that leaves")
    else:
        post.supervisor.status(_running(claimed.claim, claimed.task))
        await run_task(context, claimed)
        await asyncio.to_thread(claimed.run.remove)


def _running(claim: Claim, task: Task) -> str:
    name = f" ({task.name})" if task.name else ""
    return f"running task {claim.task}{name}, queue {claim.queue_name}"


async def _until_done_or_leaving(working: asyncio.Task[None], post: Post, context: RunContext) -> None:
    """Wait for the end of the work, or for the wish to leave.

    A task that is to be ended is given the time for that and for being reported. One that is to be left alone is let go
    of once nothing is half done (a claim is not left between the pop and the start).
    """
    stop = post.stop
    leaving = asyncio.create_task(stop.leave.wait())
    await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not working.done() and (stop.end_task.is_set() or await _is_ending(working, post)):
        log.info("ending the task, then leaving", extra={"action": "stop"})
        grace = context.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS + REPORT_SECONDS
        post.supervisor.ending(seconds=grace)
        await asyncio.wait((working,), timeout=grace)
    elif not working.done():
        letting_go = asyncio.create_task(context.may_leave.wait())
        await asyncio.wait((working, letting_go), timeout=REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        letting_go.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _is_ending(working: asyncio.Task[None], post: Post) -> bool:
    """Whether who told us to leave has told the executor, too: `systemctl kill` signals every process of a unit.

    The executor notes TERM in its run directory before it does anything else. Only an agent with a task looks.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SAME_SIGNAL_SECONDS
    while not working.done() and (mine := post.runs.of_worker(post.identity.worker_id)) and loop.time() < deadline:
        if post.stop.end_task.is_set() or any(run.is_stopping() for run, _ in mine):
            return True
        await asyncio.wait((working,), timeout=LOOK_SECONDS)
    return post.stop.end_task.is_set()


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` while the block runs; cancel what is left of it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
