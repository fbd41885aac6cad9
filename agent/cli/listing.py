"""`clearml-agent list`: the fleet as the server knows it, as tables for people and as YAML or JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

import click
import yaml

from agent import config
from agent.api.client import Client, open_client
from agent.cli import fleet, fleet_tables
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.errors import UsageError
from agent.models import Json


class Form(StrEnum):
    """How the fleet is printed."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


@click.command("list", cls=AgentCommand, context_settings=HELP, short_help="List the workers that the server knows.")
@click.option("--table", "as_table", is_flag=True, help="Print tables, also where nobody looks at a terminal.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print YAML, also on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the same content as the YAML.")
@click.pass_obj
def command(invocation: Invocation, *, as_table: bool, as_yaml: bool, as_json: bool) -> int:
    """List the workers that the server knows, with their state, queues, tasks and GPUs: on a terminal as a table with
    the queues below it, otherwise as YAML.
    """
    asked_for = [form for form, is_said in zip(Form, (as_table, as_yaml, as_json), strict=True) if is_said]
    form = form_for(asked_for, is_terminal=sys.stdout.isatty())
    settings = config.load(invocation.config_file, os.environ)
    client = open_client(settings.api, name=settings.agent.worker_name)
    try:
        text = _text(client, form)
    finally:
        client.close()
    click.echo(text)
    return 0


def form_for(asked_for: Sequence[Form], *, is_terminal: bool) -> Form:
    """What was asked for, else what suits the reader: YAML is what scripts of `clearml-agent` expect."""
    if len(asked_for) > 1:
        raise UsageError(" and ".join(f"--{form}" for form in asked_for) + " exclude each other")
    return asked_for[0] if asked_for else Form.TABLE if is_terminal else Form.YAML


def _text(client: Client, form: Form) -> str:
    answer = client.call("workers.get_all", {"last_seen": 0})
    if form is Form.TABLE:
        return tables(answer, client.call("queues.get_all", dict(fleet.QUEUES_WANTED)), now=datetime.now(UTC))
    told = fleet.with_states(answer)
    if form is Form.JSON:
        return json.dumps(told, indent=2, ensure_ascii=False)
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).rstrip("\n")


def tables(workers_answer: Json, queues_answer: Json, *, now: datetime) -> str:
    """Workers, queues, warnings; a paragraph each."""
    workers = fleet.workers_in(workers_answer)
    queues = fleet.queues_in(workers, queues_answer)
    paragraphs = (
        fleet_tables.worker_table(workers, now=now) if workers else "The server knows no worker.",
        fleet_tables.queue_table(queues) if queues else "There are no queues.",
        "\n".join(f"Warning: {text}" for text in fleet_tables.warnings(workers, queues)),
    )
    return "\n\n".join(filter(None, paragraphs))
