"""`clearml-agent execute`: one task in the foreground, complete on its own. Batch systems and pods call this."""

from __future__ import annotations

import os
from typing import Literal

import click

from agent import config
from agent.cli.group import HELP, AgentCommand, Invocation, not_yet
from agent.cli.options import hide_secrets, resolve_gpus, shared_options, with_git_credentials
from agent.config.files import write_files
from agent.errors import UsageError
from agent.gpu.inventory import read_inventory


@click.command("execute", cls=AgentCommand, context_settings=HELP, short_help="Run one task in the foreground.")
@click.option("--id", "task", required=True, metavar="ID|NAME", help="The task's id, or its name if only one has it.")
@click.option("--clone", is_flag=True, help="Run a copy of the task.")
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the task's output there, not to standard output.",
)
@click.option("--disable-monitoring", is_flag=True, help="Run only; report nothing (somebody else watches).")
@click.option("--full-monitoring", is_flag=True, help="Register as a worker while the task runs.")
@click.option("--require-queue", is_flag=True, help="Fail unless the task was waiting in a queue.")
@shared_options
@not_yet("--docker")
@not_yet("--podman")
@not_yet("--use-owner-token", is_switch=True)
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    task: str,
    clone: bool,
    log_file: str | None,
    disable_monitoring: bool,
    full_monitoring: bool,
    require_queue: bool,
    gpus: str | None,
    cpu_only: bool,
    optimize: int,
    git_user: str | None,
    git_pass: str | None,
    log_level: str,
    standalone_mode: bool,
) -> int:
    """Run one task in the foreground. The exit code is the task's.

    It is 75 if the host, the network or a server that the task needs has failed, and 1 if the task could not be set up
    through a fault of its own. A retry policy of the task does not apply: it is run once.
    """
    if disable_monitoring and full_monitoring:
        raise UsageError("--disable-monitoring and --full-monitoring exclude each other")
    if clone and require_queue:
        raise UsageError("--clone and --require-queue exclude each other: a copy is in no queue")
    level = "DEBUG" if invocation.is_debug else log_level.upper()
    settings = config.load(invocation.config_file, os.environ)
    settings = with_git_credentials(settings, git_user, git_pass)
    hide_secrets(settings, level=level)
    visibility = resolve_gpus(
        gpus, cpu_only=cpu_only or settings.agent.cpu_only, env=os.environ, inventory=read_inventory
    )
    task_umask = os.umask(0o077)
    if settings.agent.apply_files:
        write_files(settings.files)
    # the task inherits what we have: this process is the agent now, and nothing else runs in it
    if settings.agent.apply_environment:
        os.environ.update(settings.environment)
    for name in visibility.unset():
        os.environ.pop(name, None)

    from agent.runner.foreground import execute

    return execute(
        settings,
        task=task,
        clone=clone,
        require_queue=require_queue,
        monitoring=monitoring_for(disabled=disable_monitoring, full=full_monitoring),
        gpu_environment=visibility.environment(),
        gpu_suffix=visibility.worker_suffix(),
        task_umask=task_umask,
        optimize=optimize,
        log_level=level,
        log_file=log_file,
        standalone=standalone_mode,
    )


def monitoring_for(*, disabled: bool, full: bool) -> Literal["task", "none", "full"]:
    """The runner's word for the two switches."""
    if disabled:
        return "none"
    return "full" if full else "task"
