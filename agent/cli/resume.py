"""`clearml-agent resume`: agents of this host take tasks again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from agent import config
from agent.cli.control import ask, chosen_by, on_each
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.cli.records import LiveAgent


@click.command("resume", cls=AgentCommand, context_settings=HELP, short_help="Take tasks again after `pause`.")
@chosen_by
@click.pass_obj
def command(invocation: Invocation, *, ids: tuple[str, ...], is_all: bool, gpus: str | None, cpu_only: bool) -> int:
    """Let agents of this host take tasks again: takes back `pause`, and tells an agent that is cordoned that somebody
    has looked at its host. It does not take back a drain.
    """
    settings = config.load(invocation.config_file, os.environ, needs_server=False)

    def resume(agent: LiveAgent) -> None:
        click.echo(result_line(agent.worker_id, ask(agent, "resume")))

    return on_each(settings, ids, resume, is_all=is_all, gpus=gpus, cpu_only=cpu_only, env=os.environ)


def result_line(worker_id: str, answer: Mapping[str, Any]) -> str:
    """What has become of it."""
    if answer["draining"]:
        return f"{worker_id} is draining: it takes no task, and leaves"
    if answer["still"]:
        return f"{worker_id} still takes no task: {answer['still']}"
    return f"Resumed {worker_id}" if answer["was"] else f"{worker_id} was not paused"
