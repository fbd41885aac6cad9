"""`supervisor-gen diff`: what `apply` would change."""

from __future__ import annotations

import click

from supervisor_gen.apply import change_for
from supervisor_gen.cli.options import Emission, Planning, emitting_options, planned, planning_options, tell_warnings
from supervisor_gen.writer import unified_diff


@click.command("diff", short_help="Show what apply would change; exit code 1 if anything.")
@planning_options
@emitting_options
def command(*, planning: Planning, emission: Emission) -> int:
    """Show what `apply` would change: the files as `diff -u` does, then what would be done about each agent.

    Exit code 0: nothing; 1: something. Values of variables that the topology sets are not shown.
    """
    found = planned(planning)
    tell_warnings(found.plan)
    change = change_for(found.root, found.plan, emission.emitter, site=emission.site, names=found.names)
    for line in unified_diff(change.before, change.after):
        click.echo(line)
    for step in change.steps:
        if step.paths:
            click.echo(f"{step.agent}: {step.action.value}", err=True)
    return 0 if change.is_empty else 1
