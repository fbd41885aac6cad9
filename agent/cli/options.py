"""The options that `daemon` and `execute` share, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from agent.config.schema import Settings, secrets_of
from agent.gpu.model import Inventory
from agent.gpu.visible import Visibility, check, is_ignored, parse_visibility

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")

_SHARED = (
    click.option("--gpus", metavar="SPEC", help="GPUs of the tasks: all, none, 0, 0,1, 0-3, 0:1 (MIG) or UUIDs."),
    click.option("--cpu-only", is_flag=True, help="Hide all GPUs from the tasks."),
    click.option("-O", "optimize", count=True, help="Run tasks with python -O; twice for -OO."),
    click.option("--git-user", metavar="USER", help="User for https repositories."),
    click.option("--git-pass", metavar="PASS", help="Its password; better in CLEARML_AGENT_GIT_PASS."),
    click.option(
        "--log-level",
        type=click.Choice(LEVELS, case_sensitive=False),
        default="INFO",
        help="How much is logged, by the agent and by tasks (CLEARML_LOG_LEVEL).",
    ),
    click.option("--standalone-mode", is_flag=True, help="No clone, no installation: use what is on the disk."),
)


def shared_options(command: F) -> F:
    """Add the shared options to a command."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def with_git_credentials(settings: Settings, user: str | None, password: str | None) -> Settings:
    """`settings` with the credentials of the command line, which win over the configured ones."""
    if password:
        log.warning("--git-pass shows the password to every user of this host; CLEARML_AGENT_GIT_PASS does not")
    agent = settings.agent
    agent = replace(agent, git_user=user or agent.git_user, git_pass=password or agent.git_pass)
    return replace(settings, agent=agent)


def resolve_gpus(
    spec: str | None, *, cpu_only: bool, env: Mapping[str, str], inventory: Callable[[], Inventory]
) -> Visibility:
    """What `--gpus` stands for on this host. Raises GpuSpecError.

    `inventory` is asked only where devices are named, since it wakes the driver up.
    """
    visibility = parse_visibility(spec, cpu_only, env)
    if spec and not cpu_only and is_ignored(env):
        log.warning("--gpus %s is ignored: in a Kubernetes pod the device plugin chooses the GPUs", spec)
    if visibility.devices in (None, ("all",), ("none",)):
        return visibility
    checked, warning = check(visibility, inventory())
    if warning:
        log.warning("%s", warning)
    return checked


def hide_secrets(settings: Settings, *, level: str, json_lines: bool = False) -> None:
    """Log from here on without the secrets of `settings`."""
    from agent.cli.declarations import PROGRAM
    from agent.logs import set_up_logging

    set_up_logging(level=level, json_lines=json_lines, secrets=secrets_of(settings), program=PROGRAM.replace("-", "_"))
