"""`clearml-agent reload`: agents of this host read their configuration again; tasks run on."""

from __future__ import annotations

import os
import time

import click

from agent import config
from agent.cli.control import ask, chosen_by, on_each
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.cli.records import LiveAgent
from agent.errors import AgentSilent, ConfigError, UsageError

#: Reading, checking, and perhaps asking a server that does not answer.
ANSWER_SECONDS = 90.0
LOOK_SECONDS = 0.05


@click.command("reload", cls=AgentCommand, context_settings=HELP, short_help="Read the configuration again.")
@chosen_by
@click.option(
    "--give-file",
    is_flag=True,
    help="Hand the text of --config-file over, for an agent that cannot read that file.",
)
@click.pass_obj
def command(
    invocation: Invocation, *, ids: tuple[str, ...], is_all: bool, gpus: str | None, cpu_only: bool, give_file: bool
) -> int:
    """Have agents of this host read their command line and configuration again, as SIGHUP does. What is wrong is said
    here, and changes nothing; what is right comes into force at once, in the same process, and tasks run on.
    """
    settings = config.load(invocation.config_file, os.environ, needs_server=False)
    given = _text_of(invocation.config_file) if give_file else None

    def reload(agent: LiveAgent) -> None:
        ask(agent, "reload", answer_seconds=ANSWER_SECONDS, config=given)
        until_anew(agent)
        click.echo(f"Reloaded {agent.worker_id}")

    return on_each(settings, ids, reload, is_all=is_all, gpus=gpus, cpu_only=cpu_only, env=os.environ)


def until_anew(agent: LiveAgent) -> None:
    """Wait until the agent that this one has become answers: its configuration is in force then."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            if not ask(agent, "status")["agent"]["leaving"]:
                return
        except AgentSilent:
            if time.monotonic() > deadline or not agent.is_alive:
                raise
        time.sleep(LOOK_SECONDS)


def _text_of(file: str | None) -> dict[str, str]:
    if file is None:
        raise UsageError("--give-file needs a file: clearml-agent --config-file FILE reload --give-file")
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return {"name": file, "text": stream.read()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
