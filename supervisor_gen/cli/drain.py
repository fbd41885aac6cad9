"""`supervisor-gen drain`: take agents out of service once their tasks have ended."""

from __future__ import annotations

import json

import click

from agent.errors import AgentError
from supervisor_gen.apply import IDLE_SECONDS
from supervisor_gen.cli.options import choosing_options, scene_options
from supervisor_gen.cli.status import status_table
from supervisor_gen.holds import hold_now
from supervisor_gen.operate import Scene, Status, drain, statuses, still_running


@click.command("drain", short_help="Let agents finish their tasks and leave, and hold them.")
@scene_options
@choosing_options
@click.option("--why", default="", metavar="TEXT", help="A note for whoever looks at the held agents.")
@click.option("--timeout", type=click.IntRange(min=0), metavar="SECONDS", help="How long to wait; without limit else.")
@click.option("--no-wait", is_flag=True, help="Do not wait for tasks to end.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    *, scene: Scene, names: tuple[str, ...], why: str, timeout: int | None, no_wait: bool, as_json: bool
) -> int:
    """Let agents finish their tasks and leave, and hold them: they take no task until `resume`, whoever starts them.

    AGENT is a name or a shell pattern; all agents without one and without --gpu. Waits until all have left; Ctrl-C is
    safe. Exit code 1: some still run when the time is up, or have left a task behind. They stay held, and go on
    draining.
    """
    seconds = IDLE_SECONDS if no_wait else timeout
    changed = drain(scene, names, hold=hold_now(why), seconds=seconds)
    found = statuses(scene, names)
    if as_json:
        click.echo(json.dumps(_as_json(scene, found, changed), indent=2))
    else:
        click.echo(status_table(found))
    running = dict(still_running(found))
    if running and not no_wait:
        raise AgentError(
            f"not drained: {', '.join(running)}",
            hint="They are held and go on draining; run it again to wait for them.",
        )
    return 0


def _as_json(scene: Scene, found: dict[str, Status], changed: frozenset[str]) -> dict[str, object]:
    agents = {name: {**status.to_json(), "changed": name in changed} for name, status in found.items()}
    about = ("condition", "says", "tasks")
    return {
        "host": scene.roster.host,
        "changed": bool(changed),
        "agents": agents,
        "left": [name for name, status in found.items() if status.has_left],
        "running": {name: {key: agents[name][key] for key in about} for name, _ in still_running(found)},
    }
