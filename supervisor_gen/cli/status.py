"""`supervisor-gen status`: how the agents of this host are."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from agent.gpu.kernel import cpu_list
from agent.table import table
from supervisor_gen.cli.options import choosing_options, scene_options
from supervisor_gen.operate import Scene, Status, statuses

HEADS = ("AGENT", "CONDITION", "HELD", "GPUS", "QUEUES", "VERSION", "NOW")


@click.command("status", short_help="Show how the agents of this host are, and which are held.")
@scene_options
@choosing_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, scene: Scene, names: tuple[str, ...], as_json: bool) -> int:
    """Show how agents are: whether they run, what they say, who holds them, and which tasks are not accounted for.

    AGENT is a name or a shell pattern; all agents without. Exit code 0 also if agents do not run.
    """
    found = statuses(scene, names)
    if as_json:
        agents = {name: status.to_json() for name, status in found.items()}
        click.echo(json.dumps({"host": scene.roster.host, "agents": agents}, indent=2))
    else:
        click.echo(status_table(found))
    return 0


def status_table(found: Mapping[str, Status]) -> str:
    """A line for each agent."""
    return table(HEADS, [_row(name, status) for name, status in found.items()])


def _row(name: str, status: Status) -> tuple[str, ...]:
    held = status.held
    return (
        name,
        status.state.condition.value if status.state else "",
        (": ".join(filter(None, (held.since, held.why))) or "held") if held else "",
        _labels(status),
        ", ".join(status.queues),
        status.version,
        _now(status),
    )


def _labels(status: Status) -> str:
    labels = [gpu.label or gpu.uuid for gpu in status.gpus]
    return cpu_list(sorted(map(int, labels))) if all(map(str.isdecimal, labels)) else ",".join(labels)


def _now(status: Status) -> str:
    """What it says, with the tasks that it leaves out."""
    says = status.state.says if status.state else ""
    untold = [task for task in status.tasks if task not in says]
    return "; ".join(filter(None, (says, f"tasks {', '.join(untold)}" if untold else "")))
