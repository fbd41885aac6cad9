"""`clearml-agent pause`: agents of this host take no further task until `resume`; what runs goes on."""

from __future__ import annotations

import os

import click

from agent import config
from agent.cli.control import ask, chosen_by, on_each
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.cli.records import LiveAgent


@click.command("pause", cls=AgentCommand, context_settings=HELP, short_help="Take no further task, until resumed.")
@chosen_by
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever looks at the fleet.")
@click.pass_obj
def command(
    invocation: Invocation, *, ids: tuple[str, ...], is_all: bool, gpus: str | None, cpu_only: bool, reason: str
) -> int:
    """Let agents of this host take no further task until `resume`, also after a crash, a restart or a reboot. A task
    that runs goes on. Without an ID: the agent that configuration and options mean, if that is one.
    """
    settings = config.load(invocation.config_file, os.environ, needs_server=False)

    def pause(agent: LiveAgent) -> None:
        tasks = ask(agent, "pause", why=reason)["tasks"]
        goes_on = f"; {', '.join(tasks)} runs on" if tasks else ""
        click.echo(f"Paused {agent.worker_id}{goes_on}")

    return on_each(settings, ids, pause, is_all=is_all, gpus=gpus, cpu_only=cpu_only, env=os.environ)
