"""The worker: who it is, where its tasks come from, then one task after the other until it is told to go.

Three ways to go (`signals.py`, or the control socket, `operations.py`). SIGTERM: leave; a running task runs on and the
next agent of this worker id adopts it, which is what a restart, an upgrade or a service manager wants. SIGINT (Ctrl-C,
`daemon --stop`): end the task, report it as stopped, then leave. SIGUSR1: drain, that is finish the task, take no
other, then leave. And one to stay: SIGHUP has the configuration read again (`reload.py`), after which this process
leaves and begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.api import server, workers
from agent.api.client import AsyncClient, Client
from agent.api.workers import MAX_INSTANCES
from agent.config.schema import Settings
from agent.errors import ApiError
from agent.logs import name_worker
from agent.models import WorkerSetup
from agent.runner import recovery
from agent.runner.beside import beside
from agent.runner.claim import Source
from agent.runner.lifecycle import EXECUTOR_GRACE_SECONDS
from agent.runner.rundir import Runs
from agent.runtimes.base import Runtime
from agent.worker.assembly import health_for
from agent.worker.control import listening_on, socket_of
from agent.worker.crew import Crew
from agent.worker.health import Health
from agent.worker.hold import is_held
from agent.worker.listening import resolve_queues
from agent.worker.marks import Drain, Failures
from agent.worker.operations import Operations
from agent.worker.poller import Outage
from agent.worker.post import GpusFor, Post, sampler_for
from agent.worker.presence import Presence
from agent.worker.reload import Reload, Successor
from agent.worker.report import hours_of
from agent.worker.service import Supervisor, for_children
from agent.worker.shift import shift_for
from agent.worker.signals import Stop, hear_interrupt, leave_signals_to_the_loop, listen_for_stop, unless
from agent.worker.start import back_off, counted, prove, take_turn, when_reachable

log = logging.getLogger(__name__)

#: Calls that can be under way at once: the two that the server holds, and those of the side loops.
THREADS = 8
#: How long leaving may take beyond the grace of a task.
REPORT_SECONDS = 10.0
#: Who ends everything of a unit signals one process after the other; the executor gets its turn within this time.
SAME_SIGNAL_SECONDS = 0.5
LOOK_SECONDS = 0.02
#: How soon a beginning that was refused is tried again.
ANEW_SECONDS = 30.0


async def run_worker(
    setup: WorkerSetup,
    settings: Settings,
    client: Client,
    runtime: Runtime,
    *,
    supervisor: Supervisor,
    gpus_for: GpusFor = lambda environment: None,
    environ: Mapping[str, str] | None = None,
) -> Successor | None:
    """Work until told to stop. Raises AgentError when it cannot begin; returns what to become, if that is wished."""
    gpus = None if setup.cpu_only else gpus_for(setup.gpu_environment)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, initializer=leave_signals_to_the_loop))
    stop = listen_for_stop(loop, interrupt_waits=setup.succession is not None)
    surroundings = os.environ if environ is None else environ
    successor = None
    try:
        async with beside(supervisor.feed_watchdog()):
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
                    gpus=gpus,
                    gpus_for=gpus_for,
                    environ=for_children(surroundings),
                )
                successor = await _hold(post, surroundings)
            if stop.drain.is_set() and successor is None:
                await unless(asyncio.sleep(supervisor.drained()), stop.leave)
        return successor
    finally:
        if successor is None:
            supervisor.stopping()
        client.close()


async def _hold(post: Post, surroundings: Mapping[str, str]) -> Successor | None:
    """Be this worker until told to go; returns what to become, with its worker id still held."""
    identity = post.identity
    name_worker(identity.worker_id)
    reload = Reload(post.setup, identity, post.supervisor, post.stop, environ=surroundings)
    successor = None
    try:
        operations = Operations(post, reload)
        operations.obey_pause()
        async with listening_on(socket_of(identity.record), operations), beside(reload.on_request()):
            await _be(post, takes_none=is_held(surroundings))
        successor = reload.successor(has_runs=post.has_runs())
        return successor
    finally:
        if successor is None:
            identity.release()


async def _be(post: Post, *, takes_none: bool) -> None:
    """Begin and work, and leave the marks that the next agent of this worker id has to know of."""
    failures, drain = Failures(post.identity.record), Drain(post.identity.record)
    if takes_none:
        log.info("held: no task is taken until `supervisor-gen resume`", extra={"action": "held"})
    if takes_none or drain.is_wanted():
        post.stop.wish_drain()
    if (before := post.setup.succession) is not None and before.was_ready:
        post.supervisor.ready()  # it still is, as far as a supervisor is concerned: the reload is over
    with counted(failures, post.supervisor):
        async with beside(_mark_drain(post, drain)):
            await back_off(failures, post.supervisor, post.stop)
            await _begin(post, failures)
        if post.stop.drain.is_set():
            _end_drain(post, drain)


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

    waits = post.supervisor.is_supervised or post.setup.succession is not None
    connected = await when_reachable(lambda: _connect(post), post.supervisor, stop, is_over=is_over, waits=waits)
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
    async with beside(prove(failures, post.supervisor)):
        await _serve(post, source, presence)


async def _connect(post: Post) -> tuple[Source, Presence]:
    """Ask the server what there is to know, and register with it."""
    source = await find_source(post.api, post.setup)
    presence = Presence(
        post.api,
        worker=post.identity.worker_id,
        queues=source.ids,
        tags=post.setup.child_report_tags,
        sampler=sampler_for(post.settings, post.gpus),
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


async def _serve(post: Post, source: Source, presence: Presence) -> None:
    """Report and work until the work is done or somebody wants us to go."""
    worker, url = post.identity.worker_id, post.api.sync.base_url
    names = ", ".join(queue.name for queue in source.queues)
    log.info("worker %s listens to %s on %s", worker, names, url, extra={"action": "ready"})
    health = health_for(post)
    post.on_resume.append(health.acknowledge)
    crew = Crew(shift_for(post, source, presence, health))
    post.duty.begins(crew, presence)
    working = asyncio.create_task(crew.work(Outage(post.supervisor.status)))
    hear_interrupt()
    try:
        async with (
            beside(presence.run()),
            beside(health.run()),
            beside(_begin_anew(health, post.stop)),
            beside(_tell_of_drain(post.stop, presence)),
        ):
            await _until_done_or_leaving(working, post, crew)
    finally:
        await crew.dismiss()
        if not (post.has_runs() or post.stop.anew.is_set()):  # a run that is left behind keeps its worker on the list
            await presence.unregister()


async def _begin_anew(health: Health, stop: Stop) -> None:
    """Once GPUs are there that were missing, begin anew as with a changed configuration: so they are found out."""
    await health.until_complete()
    while True:
        log.info("the GPUs that were missing are there: beginning anew", extra={"action": "begin_anew"})
        stop.reread.set()
        await asyncio.sleep(ANEW_SECONDS)


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
    is_ending = stop.end_task.is_set() or (not stop.anew.is_set() and await _is_ending(working, post))
    if not working.done() and is_ending:
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
