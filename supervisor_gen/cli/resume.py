"""`supervisor-gen resume`: put agents back into service."""

from __future__ import annotations

import json

import click

from agent.table import table
from supervisor_gen.cli.apply import refuse_failed
from supervisor_gen.cli.options import READY_TIMEOUT, choosing_options, scene_options
from supervisor_gen.operate import Resumed, Scene, resume, statuses


@click.command("resume", short_help="Start drained agents again.")
@scene_options
@choosing_options
@click.option("--no-wait", is_flag=True, help="Do not wait for agents that still drain; the next apply starts them.")
@READY_TIMEOUT
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(*, scene: Scene, names: tuple[str, ...], no_wait: bool, ready_timeout: int, as_json: bool) -> int:
    """Hold agents no longer, and start those that do not run.

    AGENT is a name or a shell pattern; all agents without one and without --gpu. An agent that still drains cannot be
    told otherwise: it is waited for, and started when it has left. Exit code 1: an agent did not come up.
    """
    result = resume(scene, names, waits=not no_wait, ready_seconds=ready_timeout)
    if as_json:
        click.echo(json.dumps(_as_json(scene, names, result), indent=2))
    else:
        rows = [(name, result.done[name], result.failed.get(name, result.waiting.get(name, ""))) for name in names]
        click.echo(table(("AGENT", "", "NOW"), rows))
    refuse_failed(result)
    return 0


def _as_json(scene: Scene, names: tuple[str, ...], result: Resumed) -> dict[str, object]:
    found = statuses(scene, names)
    return {
        "host": scene.roster.host,
        "changed": bool(result.changed),
        "agents": {name: {**status.to_json(), "changed": name in result.changed} for name, status in found.items()},
        "done": result.done,
        "waiting": result.waiting,
        "failed": result.failed,
    }
