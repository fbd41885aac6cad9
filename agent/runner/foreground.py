"""`clearml-agent execute`: one task in the foreground, complete on its own.

The same runner and executor as the daemon's, without a queue: console, status, stop detection and resource readings all
happen here, so that a batch system that calls this gets a task that ClearML can watch and abort. The exit code is the
task's.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TextIO

from agent.api import server, tasks, workers
from agent.api.client import AsyncClient, Client, open_client
from agent.config.schema import Settings
from agent.errors import AgentError, ApiError, Interrupted, UnknownTask
from agent.models import ExecutorSetup, Task
from agent.runner.abort import StatusBoard
from agent.runner.claim import Claimed
from agent.runner.console import Console, Position
from agent.runner.context import RunContext
from agent.runner.judging import judge, say_end
from agent.runner.lifecycle import EXECUTOR_GRACE_SECONDS, run_task
from agent.runner.machine import GpuStats, MachineSampler
from agent.runner.outcome import StopCause
from agent.runner.rundir import Claim, RunDirectory, Runs
from agent.runtimes.host import HostRuntime
from agent.states import RunPhase, TaskStatus

log = logging.getLogger(__name__)

Monitoring = Literal["task", "none", "full"]
TASK_ID = re.compile(r"^[0-9a-f]{32}$")
ECHO_SECONDS = 0.1
#: How long reporting may take after the task was told to end.
REPORT_SECONDS = 10.0


def execute(
    settings: Settings,
    *,
    task: str,
    clone: bool = False,
    require_queue: bool = False,
    monitoring: Monitoring = "task",
    gpu_environment: Mapping[str, str] | None = None,
    gpu_suffix: str | None = None,
    task_umask: int = 0o022,
    optimize: int = 0,
    log_level: str = "INFO",
    log_file: str | None = None,
    standalone: bool = False,
) -> int:
    """Run one task to its end and return its exit code.

    `task` is an id or an exact, unique name. `monitoring` "task" reports console, status and readings; "full" registers
    as a worker besides; "none" reports nothing and only prints (somebody else watches). Raises UnknownTask and what the
    server raises before the task has started.
    """
    client = open_client(settings.api, name=settings.agent.worker_name)
    name = settings.agent.worker_id or ":".join(
        [settings.agent.worker_name, *([gpu_suffix] if gpu_suffix else []), str(os.getpid())]
    )
    setup = ExecutorSetup(
        settings=settings.to_json(),
        worker_id=name,
        environment=gpu_environment or {},
        umask=task_umask,
        optimize=optimize,
        log_level=log_level,
        standalone=standalone,
    )
    try:
        wanted = find_task(client, task)
        if clone:
            wanted = client.send(tasks.get_by_id(client.send(tasks.clone(wanted.id, name=f"Clone of {wanted.name}"))))
        with _output(log_file) as output:
            return asyncio.run(
                _execute(
                    settings,
                    client,
                    setup,
                    wanted,
                    from_queue=not clone,
                    require_queue=require_queue,
                    monitoring=monitoring,
                    output=output,
                )
            )
    finally:
        client.close()


def find_task(client: Client, wanted: str) -> Task:
    """The task of this id or name (compared in any letter case). Raises UnknownTask if there is none, or several."""
    if not TASK_ID.match(wanted):
        found = client.send(tasks.find_by_name(wanted))
        if len(found) != 1:
            problem = "no task has" if not found else f"{len(found)} tasks have"
            raise UnknownTask(f"{problem} the name {wanted!r}", hint="Give the task's id, which the web page shows")
        wanted = str(found[0]["id"])
    try:
        return client.send(tasks.get_by_id(wanted))
    except ApiError as error:
        if error.is_(400, 101):
            raise UnknownTask(
                f"the server {client.base_url} has no task {wanted}", hint="Is the id complete, and is this its server?"
            ) from error
        raise


async def _execute(
    settings: Settings,
    client: Client,
    setup: ExecutorSetup,
    task: Task,
    *,
    from_queue: bool,
    require_queue: bool,
    monitoring: Monitoring,
    output: TextIO,
) -> int:
    api = AsyncClient(client)
    context = await _context(settings, api, setup, monitoring=monitoring)
    _end_on_signal(context.end_task)
    if from_queue:
        await _take_from_queue(api, task, required=require_queue)
    run, claim = Runs(Path(settings.agent.state_dir).expanduser() / "runs").create(
        Claim(
            task=task.id,
            attempt=0,
            worker=setup.worker_id,
            queue="",
            queue_name="the command line",
            token=uuid.uuid4().hex,
            phase=RunPhase.CLAIMED,
            claimed_at_ms=int(time.time() * 1000),
        )
    )
    run.write_task(task)
    is_told = True
    ended = asyncio.Event()
    echo = asyncio.create_task(_echo(Console(run.console), output, ended))
    try:
        if monitoring == "none":
            return await _run_unwatched(context, run, claim)
        return await _run_watched(context, Claimed(run=run, claim=claim, task=task))
    except Interrupted:
        is_told = False
        raise
    finally:
        ended.set()
        await echo
        if is_told:
            run.remove()
        if monitoring == "full":
            await api.send_until_answered(workers.unregister(setup.worker_id), give_up_after=5.0)


async def _run_watched(context: RunContext, claimed: Claimed) -> int:
    """Run the task as a daemon would. Once told to end, no longer than ending and reporting may take."""
    working = asyncio.create_task(run_task(context, claimed))
    told = asyncio.create_task(context.end_task.wait())
    await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    longest = context.settings.agent.stop_grace_seconds + EXECUTOR_GRACE_SECONDS + REPORT_SECONDS
    await asyncio.wait((working,), timeout=longest if context.end_task.is_set() else None)
    if not working.done():
        working.cancel()
        raise Interrupted(
            f"the server could not be told how task {claimed.task.id} ended",
            hint=f"What it wrote is in {claimed.run.console}",
        )
    verdict = working.result()
    if verdict is None:
        raise AgentError(
            f"task {claimed.task.id} could not be started: the server says it is {claimed.task.status.value}",
            hint="Reset the task, or run a copy of it with --clone",
        )
    return verdict.exit_code


async def _take_from_queue(api: AsyncClient, task: Task, *, required: bool) -> None:
    updated = await api.send_until_answered(
        tasks.dequeue(task.id, new_status=TaskStatus.IN_PROGRESS), give_up_after=60.0
    )
    if required and not updated:
        raise AgentError(
            f"task {task.id} is in no queue, and --require-queue was given",
            hint="Somebody else may have taken it already",
        )


async def _context(settings: Settings, api: AsyncClient, setup: ExecutorSetup, *, monitoring: Monitoring) -> RunContext:
    features = await server.features_of(api, give_up_after=30.0)
    if monitoring == "full":
        await api.send_until_answered(workers.register(setup.worker_id, queues=()), give_up_after=60.0)

    async def announce(task: str | None, queue: str | None) -> None:
        if monitoring == "none" or task is None:
            return
        report = workers.status_report(setup.worker_id, queues=(), task=task, queue=queue or None)
        try:
            await api.send(report)
        except AgentError as error:
            log.warning("the status report was not taken: %s", error.message)

    return RunContext(
        api=api,
        features=features,
        board=StatusBoard(api, features, poll_seconds=settings.agent.status_poll_seconds),
        runtime=HostRuntime(),
        settings=settings,
        worker=setup.worker_id,
        executor_setup=setup,
        executor_environ=dict(os.environ),
        sampler=MachineSampler(
            disk_path=settings.agent.resource_monitoring.disk_use_path or "~", gpus=_gpus(settings, setup)
        ),
        announce=announce,
        is_exclusive=False,
    )


def _gpus(settings: Settings, setup: ExecutorSetup) -> GpuStats | None:
    from agent.gpu.stats import sampler_for

    default = settings.agent.resource_monitoring.default_gpu_utilization
    return sampler_for(setup.environment, default_utilization=default)


async def _run_unwatched(context: RunContext, run: RunDirectory, claim: Claim) -> int:
    """Launch and wait; nothing is sent to the server."""
    run.write_setup(context.executor_setup)
    handle = await context.runtime.launch(run.path, context.executor_environ)
    ending = asyncio.create_task(context.end_task.wait())
    waiting = asyncio.create_task(handle.wait())
    await asyncio.wait((ending, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        run.request_stop(StopCause.SHUTDOWN.value)
        handle.stop()
    await waiting
    ending.cancel()
    verdict = judge(run)
    say_end(run, claim, verdict)
    return verdict.exit_code


def _end_on_signal(end_task: asyncio.Event) -> None:
    """Ctrl-C, a batch system's TERM and a closed terminal end the task; there is no next agent that would adopt it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end_task.set)


async def _echo(console: Console, output: TextIO, ended: asyncio.Event) -> None:
    """Print the run's console as it grows, and what is left of it once the run has ended."""
    position = Position()
    while True:
        is_last = ended.is_set()
        try:
            for after, _at_ms, _kind, text in console.records(position):
                output.write(text + "\n")
                position = after
            output.flush()
        except BrokenPipeError:  # nobody reads any more; the server has it all
            return
        if is_last:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), ECHO_SECONDS)


@contextlib.contextmanager
def _output(log_file: str | None) -> Iterator[TextIO]:
    """Standard output, or the file that `--log-file` names (0600, appended to)."""
    if log_file is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of another encoding than the task's
        yield sys.stdout
        return
    with open(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        yield file
