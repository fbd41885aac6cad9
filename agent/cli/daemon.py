"""`clearml-agent daemon`: reads command line and configuration, hands both to a small process, and is gone.

What the daemon needs is written to a file for its user's eyes, and this process becomes the daemon by exec. So nothing
that parsing took (click, pyhocon) stays in the memory of a process that lives for months.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import click

from agent import config
from agent.cli.group import HELP, AgentCommand, Invocation, Several, not_yet
from agent.cli.options import hide_secrets, resolve_gpus, shared_options, with_git_credentials
from agent.cli.records import state_folder
from agent.cli.slots import (
    NO_GPUS,
    check_combination,
    check_hours,
    layout_of,
    layout_without_missing,
    queue_wishes,
    services_limit,
    with_hours,
)
from agent.config.files import write_files
from agent.config.schema import Settings
from agent.errors import GpuMissing, GpuSpecError, UsageError
from agent.gpu.allocation import Layout
from agent.gpu.inventory import read_inventory
from agent.gpu.visible import Visibility, parse_visibility
from agent.models import WorkerSetup
from agent.process.procfs import start_ticks_of
from agent.runner.rundir import Runs
from agent.worker.becoming import become_daemon
from agent.worker.hold import is_held
from agent.worker.identity import file_name_of
from agent.worker.marks import Drain
from agent.worker.service import Supervisor

log = logging.getLogger(__name__)

SHORTEST_POLLING_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of `daemon` that describe a worker."""

    queues: tuple[str, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    services: int | None = None
    share: float | None = None
    create_queue: bool = False
    order_fairness: bool = False
    foreground: bool = False
    gpus: str | None = None
    cpu_only: bool = False
    polling_interval_seconds: float | None = None
    child_report_tags: tuple[str, ...] = ()
    standalone: bool = False
    optimize: int = 0
    log_level: str = "INFO"
    json_logs: bool = False


@click.command("daemon", cls=AgentCommand, context_settings=HELP, short_help="Take tasks from queues and run them.")
@click.option(
    "--queue",
    "queues",
    cls=Several,
    needs_value=True,
    metavar="QUEUE...",
    help="Names or ids of queues, best first. Without it: the server's default queue.",
)
@click.option("--order-fairness", is_flag=True, help="After a task go on with the next queue, not the first.")
@click.option("--create-queue", is_flag=True, help="Make queues that the server does not have.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log there.")
@click.option("--detached", "-d", is_flag=True, help="Start in the background and return once it is ready.")
@click.option(
    "--stop",
    cls=Several,
    metavar="[ID...]",
    help="Stop an agent of this host: the one with these GPUs, or those with these worker ids. Its task is ended.",
)
@click.option("--drain", is_flag=True, help="With --stop: let it finish its task and take no other; wait for that.")
@click.option("--leave", is_flag=True, help="With --stop: let its task run on, for the next agent to adopt.")
@click.option(
    "--timeout",
    "drain_seconds",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="With --stop --drain: how long to wait; 0 does not. The drain goes on all the same.",
)
@click.option("--status", is_flag=True, help="Show this host's agents as they and the server see them.")
@shared_options
@click.option(
    "--polling-interval",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help=f"How often to ask for a task where the server cannot tell; at least {SHORTEST_POLLING_SECONDS}.",
)
@click.option("--child-report-tags", cls=Several, metavar="TAG...", help="Tags of the worker on the server.")
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line.")
@click.option(
    "--services-mode",
    "services",
    cls=Several,
    metavar="[N]",
    help="Run many light tasks at once, without GPUs, each as a worker of its own; N at most.",
)
@click.option(
    "--dynamic-gpus",
    is_flag=True,
    help="Give each task as many of these GPUs as its queue says: --queue NAME=N or NAME=MIN-MAX.",
)
@click.option(
    "--gpu-share",
    type=float,
    metavar="PART",
    help="Share these GPUs: use this part (0.25) of each.",
)
@click.option("--uptime", cls=Several, needs_value=True, metavar="SPEC...", help='Working hours, "8-18 MON-FRI".')
@click.option("--downtime", cls=Several, needs_value=True, metavar="SPEC...", help="Hours off, in place of --uptime.")
@not_yet("--docker")
@not_yet("--podman")
@not_yet("--force-current-version", is_switch=True)
@not_yet("--use-owner-token", is_switch=True)
@not_yet("--check-bootstrap", is_switch=True)
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    queues: tuple[str, ...],
    order_fairness: bool,
    create_queue: bool,
    foreground: bool,
    detached: bool,
    stop: tuple[str, ...],
    drain: bool,
    leave: bool,
    drain_seconds: int | None,
    status: bool,
    gpus: str | None,
    cpu_only: bool,
    optimize: int,
    git_user: str | None,
    git_pass: str | None,
    log_level: str,
    standalone_mode: bool,
    polling_interval: int | None,
    child_report_tags: tuple[str, ...],
    json_logs: bool,
    services: tuple[str, ...],
    dynamic_gpus: bool,
    gpu_share: float | None,
    uptime: tuple[str, ...],
    downtime: tuple[str, ...],
) -> int:
    """Take tasks from queues and run them, until told to stop.

    SIGTERM (--stop --leave) leaves a running task running, for the next agent of the same worker id to adopt; SIGINT
    (Ctrl-C, --stop) ends it; SIGUSR1 (--stop --drain) lets it finish, takes no other, then leaves. SIGHUP (`reload`)
    reads the configuration again.
    """
    if sum((foreground, detached, bool(stop), status)) > 1:
        raise UsageError("--foreground, --detached, --stop and --status exclude each other")
    if (drain or leave) and not stop:
        raise UsageError("--drain and --leave say how to --stop an agent")
    if drain and leave:
        raise UsageError("--drain and --leave exclude each other")
    if drain_seconds is not None and not drain:
        raise UsageError("--timeout is for --stop --drain")
    level = "DEBUG" if invocation.is_debug else log_level.upper()
    hide_secrets(config.defaults(), level=level, json_lines=json_logs)
    settings = config.load(invocation.config_file, os.environ, needs_server=not stop)
    settings = with_hours(with_git_credentials(settings, git_user, git_pass), uptime, downtime)
    hide_secrets(settings, level=level, json_lines=json_logs)
    limit = services_limit(services)
    names, ranges = queue_wishes(queues, is_dynamic=dynamic_gpus)
    wishes = Wishes(
        queues=names,
        ranges=ranges,
        services=limit,
        share=gpu_share,
        create_queue=create_queue,
        order_fairness=order_fairness,
        foreground=foreground,
        gpus=gpus,
        cpu_only=cpu_only or settings.agent.cpu_only or limit is not None,
        polling_interval_seconds=None if polling_interval is None else max(polling_interval, SHORTEST_POLLING_SECONDS),
        child_report_tags=tuple(tag for tag in child_report_tags if tag),
        standalone=standalone_mode,
        optimize=optimize,
        log_level=level,
        json_logs=json_logs,
    )
    if stop:
        from agent.cli.stop import Way, stop_agents

        way = Way.DRAIN if drain else Way.LEAVE if leave else Way.END
        ids = tuple(name for name in stop if name)
        return stop_agents(settings, wishes, ids, env=os.environ, way=way, drain_seconds=drain_seconds)
    if status:
        from agent.cli.status import show_status

        return show_status(settings)
    return _start(invocation, settings, wishes, is_detached=detached)


def _start(invocation: Invocation, settings: Settings, wishes: Wishes, *, is_detached: bool) -> int:
    task_umask = os.umask(0o077)
    # a request to drain, or to read the configuration again, waits until the daemon listens
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
    check_combination(wishes)
    check_hours(settings)
    reread = invocation.reread
    visibility, layout, missing = _gpus_of(settings, wishes, may_finish=reread is None)
    environment = environment_for(settings, visibility, os.environ)
    setup = replace(
        worker_setup(settings, wishes, visibility, layout),
        task_umask=task_umask,
        missing=missing,
        arguments=invocation.typed,
        environment_before=changed_by(environment, os.environ),
    )
    if reread is not None:
        reread.check(settings, setup)
    if settings.agent.apply_files:
        write_files(settings.files)
    if reread is not None:
        reread.accept(setup, environment)
    elif is_detached:
        from agent.cli.detach import start_detached

        return start_detached(settings, setup, environment)
    else:
        become_worker(settings, setup, environment)
    return 0


def _gpus_of(settings: Settings, wishes: Wishes, *, may_finish: bool) -> tuple[Visibility, Layout, tuple[str, ...]]:
    """What the wishes stand for on this host, and which of it is missing but waited for.

    `may_finish`: an agent that has something to account for may start without its GPUs, to do that and leave.
    """
    inventory = cache(lambda: read_inventory(with_peers=bool(wishes.ranges)))
    try:
        visibility = resolve_gpus(wishes.gpus, cpu_only=wishes.cpu_only, env=os.environ, inventory=inventory)
        if visibility.devices in (None, ("none",)):
            return visibility, NO_GPUS, ()
        return visibility, layout_of(visibility.devices or (), inventory(), wishes), ()
    except GpuMissing as error:
        if not waits_for_gpus(settings, error, os.environ):
            raise
        visibility = parse_visibility(wishes.gpus, wishes.cpu_only, os.environ)
        return visibility, *layout_without_missing(visibility.devices or (), inventory(), wishes)
    except GpuSpecError as error:
        if not may_finish or not finishes_only(settings, error):
            raise
        return parse_visibility(wishes.gpus, wishes.cpu_only, os.environ), NO_GPUS, ()


def waits_for_gpus(settings: Settings, error: GpuMissing, env: Mapping[str, str]) -> bool:
    """Whether an agent without its GPU is to be there nevertheless, cordoned, until the GPU is: one whose name was
    decided on. Who types `--gpus` is told at once.
    """
    if not settings.agent.worker_id and not Supervisor.from_environ(env).is_supervised:
        return False
    log.warning("%s; waiting for it", error.message, extra={"action": "gpu_missing"})
    return True


def finishes_only(settings: Settings, error: GpuSpecError) -> bool:
    """Whether an agent whose GPU is gone still has to account for a task, or is held and takes none anyway: it then
    starts drained. Only an agent whose id is configured knows its tasks without knowing its GPUs.
    """
    worker, state = settings.agent.worker_id, Path(settings.agent.state_dir)
    if not worker or not (is_held(os.environ) or Runs(state / "runs").of_agent(worker)):
        return False
    log.warning("%s; finishing what the last task left, then leaving", error.message, extra={"action": "drain"})
    Drain(state_folder(settings, "workers") / f"{file_name_of(worker)}.lock").begin()
    return True


def worker_setup(settings: Settings, wishes: Wishes, visibility: Visibility, layout: Layout = NO_GPUS) -> WorkerSetup:
    """Command line and configuration as the daemon reads them."""
    return WorkerSetup(
        settings=settings.to_json(),
        queues=wishes.queues,
        create_queue=wishes.create_queue,
        order_fairness=wishes.order_fairness,
        foreground=wishes.foreground,
        gpus=wishes.gpus,
        gpu_environment=visibility.environment(),
        gpu_suffix=visibility.worker_suffix(),
        units=tuple(asdict(unit) for unit in layout.units),
        links=tuple((min(pair), max(pair), link.value) for pair, link in layout.links.items()),
        share=wishes.share,
        services=wishes.services,
        wishes=wishes.ranges,
        cpu_only=wishes.cpu_only,
        polling_interval_seconds=wishes.polling_interval_seconds,
        child_report_tags=wishes.child_report_tags,
        standalone=wishes.standalone,
        optimize=wishes.optimize,
        log_level=wishes.log_level,
        json_logs=wishes.json_logs,
    )


def environment_for(settings: Settings, visibility: Visibility, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of the daemon: ours, the `environment` section over it, and no variable that hides GPUs."""
    own = settings.environment if settings.agent.apply_environment else {}
    return {name: value for name, value in {**env, **own}.items() if name not in visibility.unset()}


def changed_by(new: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that differ, as they are in `old`; None for those that it does not have."""
    return {name: old.get(name) for name in {*old, *new} if old.get(name) != new.get(name)}


def become_worker(settings: Settings, setup: WorkerSetup, environment: Mapping[str, str]) -> None:
    """Be the daemon from here on. Does not return."""
    workers = state_folder(settings, "workers")
    _remove_abandoned(workers)
    become_daemon(workers, setup, environment)


def _remove_abandoned(workers: Path) -> None:
    """Set-up files hold secrets; one is left only if its process died between writing and reading."""
    for file in workers.glob("setup.*.json"):
        pid = file.name.split(".")[1]
        if pid.isdigit() and start_ticks_of(int(pid)) is None:
            file.unlink(missing_ok=True)
