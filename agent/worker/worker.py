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
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.api import server, workers
from agent.api.client import AsyncClient, Client
from agent.api.workers import AVAILABLE_GPUS, MAX_INSTANCES
from agent.config.schema import Settings
from agent.errors import ApiError
from agent.logs import name_worker
from agent.models import ExecutorSetup, WorkerSetup
from agent.runner import recovery
from agent.runner.abort import StatusBoard
from agent.runner.claim import Source
from agent.runner.lifecycle import EXECUTOR_GRACE_SECONDS, RunContext
from agent.runner.machine import GpuStats, MachineSampler, OneAtATime
from agent.runner.rundir import Runs
from agent.runtimes.base import Runtime
from agent.worker.assembly import gate_for, slots_for
from agent.worker.closing import Closing
from agent.worker.crew import Crew, Shift
from agent.worker.gate import Gate
from agent.worker.identity import Identity
from agent.worker.listening import Listening, resolve_queues
from agent.worker.marks import Drain, Failures
from agent.worker.poller import Outage, Poller, turn_file
from agent.worker.presence import Presence
from agent.worker.service import Supervisor, for_children
from agent.worker.signals import Stop, listen_for_stop
from agent.worker.slots import Services, Slot, Slots
from agent.worker.standing import Stand, Standing
from agent.worker.start import back_off, counted, prove, take_turn, when_reachable
from agent.worker.turn import Turn

log = logging.getLogger(__name__)

#: Calls that can be under way at once: the two that the server holds, and those of the side loops.
THREADS = 8
#: How long leaving may take beyond the grace of a task.
REPORT_SECONDS = 10.0
#: Who ends everything of a unit signals one process after the other; the executor gets its turn within this time.
SAME_SIGNAL_SECONDS = 0.5
LOOK_SECONDS = 0.02

#: The readings of the GPUs that a task with these variables sees; None where there are none.
GpusFor = Callable[[Mapping[str, str]], GpuStats | None]


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
    gpus_for: GpusFor
    environ: Mapping[str, str]

    def has_runs(self) -> bool:
        """Whether a run of this worker is still to be seen through."""
        return bool(self.runs.of_agent(self.identity.worker_id))


async def run_worker(
    setup: WorkerSetup,
    settings: Settings,
    client: Client,
    runtime: Runtime,
    *,
    supervisor: Supervisor,
    gpus_for: GpusFor = lambda environment: None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Work until told to stop. Raises AgentError when it cannot begin."""
    gpus = None if setup.cpu_only else gpus_for(setup.gpu_environment)
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
                    gpus_for=gpus_for,
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
                agent=post.identity.worker_id,
                grace_seconds=post.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS,
            )
        return
    source, presence = connected
    post.identity.say(ready=True, queues=source.ids, hours=hours_of(post.settings))
    post.supervisor.ready()
    async with _beside(prove(failures, post.supervisor)):
        await _serve(post, source, presence)


def hours_of(settings: Settings) -> dict[str, Any]:
    """What `daemon --status` is told of an agent's hours."""
    agent = settings.agent
    return {"uptime": list(agent.uptime), "downtime": list(agent.downtime), "timezone": agent.timezone}


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
    if post.setup.services is not None:
        await _say_limit(post, post.setup.services)
    await presence.register()
    return source, presence


async def _say_limit(post: Post, limit: int) -> None:
    """Set the property `max_num_instances` to what this agent was started with: what was set before is over."""
    said = {MAX_INSTANCES: str(limit)} if limit else {}
    gone = () if limit else (MAX_INSTANCES,)
    try:
        await post.api.send(workers.set_runtime_properties(post.identity.worker_id, said, gone=gone))
    except ApiError as error:
        if error.is_server_fault:
            raise
        log.debug("%s is not kept: %s", MAX_INSTANCES, error.message)


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


async def _serve(post: Post, source: Source, presence: Presence) -> None:
    """Report and work until the work is done or somebody wants us to go."""
    worker, url = post.identity.worker_id, post.api.sync.base_url
    names = ", ".join(queue.name for queue in source.queues)
    log.info("worker %s listens to %s on %s", worker, names, url, extra={"action": "ready"})
    crew = Crew(_shift(post, source, presence))
    working = asyncio.create_task(crew.work(Outage(post.supervisor.status)))
    try:
        async with _beside(presence.run()), _beside(_tell_of_drain(post.stop, presence)):
            await _until_done_or_leaving(working, post, crew)
    finally:
        await crew.dismiss()
        if not post.has_runs():  # a run that is left behind keeps its worker on the list
            await presence.unregister()


def _shift(post: Post, source: Source, presence: Presence) -> Shift:
    """Everything that the crew works with, put together."""
    worker, agent = post.identity.worker_id, post.settings.agent
    slots, gate = slots_for(post.setup, post.settings, worker), gate_for(post.settings)
    listening = Listening(post.api, source, worker=worker, on_change=presence.listen_to)
    poller = Poller(
        post.api,
        listening,
        gate,
        Turn(turn_file(post.identity.record, order_fairness=post.setup.order_fairness)),
        post.runs,
        worker=worker,
        polling_interval_seconds=post.setup.polling_interval_seconds or agent.polling_interval_seconds,
        heard=lambda: _obey(slots, gate, post.setup),
    )
    context = RunContext(
        api=post.api,
        features=source.features,
        board=StatusBoard(post.api, source.features, poll_seconds=agent.status_poll_seconds),
        runtime=post.runtime,
        settings=post.settings,
        worker=worker,
        executor_setup=executor_setup(post.setup, worker),
        executor_environ=post.environ,
        sampler=_sampler(post.settings, post.gpus),
        announce=presence.announce,
        end_task=post.stop.end_task,
        closing=Closing(poller, agent.at_closing),
    )
    return Shift(
        agent=worker,
        api=post.api,
        runs=post.runs,
        stop=post.stop,
        slots=slots,
        poller=poller,
        listening=listening,
        context=context,
        below=lambda context, slot: _as_sub_worker(post, context, slot),
        say=post.supervisor.status,
        changed=lambda: _tell(slots, gate, presence),
        reserves=bool(post.setup.wishes) and agent.dynamic_gpus.reserve_after_seconds is not None,
    )


def _obey(slots: Slots, gate: Gate, setup: WorkerSetup) -> None:
    """The property `max_num_instances` changes the number of services while the agent runs."""
    if isinstance(slots, Services):
        slots.limit = (setup.services or None) if gate.most_tasks is None else gate.most_tasks


def _tell(slots: Slots, gate: Gate, presence: Presence) -> None:
    """Let the server know whether tasks are taken, and what of."""
    stand = gate.stand()
    if stand.standing in (Standing.OPEN, Standing.FORCED_ON) and slots.why_not:
        stand = Stand(standing=Standing.WAITING, why=slots.why_not)
    presence.tell(stand)
    if (available := slots.available) is not None:
        presence.publish(AVAILABLE_GPUS, available)


@contextlib.asynccontextmanager
async def _as_sub_worker(post: Post, context: RunContext, slot: Slot) -> AsyncIterator[RunContext]:
    """A worker of its own on the server's list, for as long as a run is seen through."""
    gpus = post.gpus_for(slot.environment) if slot.devices else None
    interval = post.settings.agent.status_report_interval_seconds
    presence = Presence(
        post.api,
        worker=slot.worker,
        queues=(),
        tags=post.setup.child_report_tags,
        sampler=_sampler(post.settings, gpus),
        interval_seconds=interval,
    )
    async with _beside(presence.run()):
        yield replace(context, announce=presence.announce, sampler=_sampler(post.settings, gpus))
    await presence.unregister()  # not where the run is left behind


async def _tell_of_drain(stop: Stop, presence: Presence) -> None:
    await stop.drain.wait()
    presence.tell_of_drain()


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


async def _until_done_or_leaving(working: asyncio.Task[None], post: Post, crew: Crew) -> None:
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
        grace = post.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS + REPORT_SECONDS
        post.supervisor.ending(seconds=grace)
        await asyncio.wait((working,), timeout=grace)
    elif not working.done():
        letting_go = asyncio.create_task(crew.undivided.wait())
        await asyncio.wait((working, letting_go), timeout=REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        letting_go.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _is_ending(working: asyncio.Task[None], post: Post) -> bool:
    """Whether who told us to leave has told the executors, too: `systemctl kill` signals every process of a unit.

    An executor notes TERM in its run directory before it does anything else. Only an agent with a task looks.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SAME_SIGNAL_SECONDS
    while not working.done() and (mine := post.runs.of_agent(post.identity.worker_id)) and loop.time() < deadline:
        if post.stop.end_task.is_set() or all(run.is_stopping() for run, _ in mine):
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
