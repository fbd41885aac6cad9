"""`clearml-agent config`: the configuration that counts, without asking a server, without showing secrets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import click

from agent import config
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.config.loading import effective_tree
from agent.config.schema import is_secret_key
from agent.logs import HIDDEN, Redactor

log = logging.getLogger(__name__)

#: Everything below these is masked: variables and files may hold anything.
MASKED_SECTIONS = frozenset({"environment"})
MASKED_KEYS = frozenset({"contents"})


@click.command("config", cls=AgentCommand, context_settings=HELP, short_help="Show the configuration, secrets masked.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def command(invocation: Invocation, *, is_json: bool) -> int:
    """Show the configuration that counts, one `key = value` a line, with secrets masked. Asks no server."""
    settings = config.load(invocation.config_file, os.environ, needs_server=False)
    if not settings.sources:
        log.warning("no configuration file and no variable was found: these are the defaults")
    shown = masked(effective_tree(settings), Redactor())
    if is_json:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        for key, value in sorted(flattened(shown)):
            click.echo(f"{key} = {value}")
    return 0


def masked(value: Any, redact: Redactor, *, is_secret: bool = False) -> Any:
    """The tree with three asterisks for what is secret: by its key, its section, or as part of a URL."""
    if isinstance(value, Mapping):
        return {
            key: masked(
                inner,
                redact,
                is_secret=is_secret or is_secret_key(key) or key in MASKED_KEYS or key in MASKED_SECTIONS,
            )
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner, redact, is_secret=is_secret) for inner in value]
    if is_secret and value not in ("", None, True, False):
        return HIDDEN
    return redact(value) if isinstance(value, str) else value


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as JSON; an empty section has no line."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
