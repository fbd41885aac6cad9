"""`clearml-agent list`: the workers that the server knows."""

from __future__ import annotations

import json
import os

import click
import yaml

from agent import config
from agent.api.client import open_client
from agent.cli.group import HELP, AgentCommand, Invocation


@click.command("list", cls=AgentCommand, context_settings=HELP, short_help="List the workers that the server knows.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of YAML.")
@click.pass_obj
def command(invocation: Invocation, *, is_json: bool) -> int:
    """List the workers that the server knows, with their queues and tasks, as YAML."""
    settings = config.load(invocation.config_file, os.environ)
    client = open_client(settings.api, name=settings.agent.worker_name)
    try:
        answer = client.call("workers.get_all", {"last_seen": 0})
    finally:
        client.close()
    if is_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True), nl=False)
    return 0
