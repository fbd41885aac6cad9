"""`supervisor-gen diff`: what `apply` would change."""

from __future__ import annotations

import click

from supervisor_gen.apply import change_for
from supervisor_gen.cli.options import (
    emitter_for,
    emitting_options,
    planned,
    planning_options,
    site_for,
    waiting_option,
)
from supervisor_gen.writer import unified_diff


@click.command("diff", short_help="Show what apply would change; exit code 1 if anything.")
@planning_options
@emitting_options
@waiting_option
def command(
    *,
    topology: str | None,
    inventory: str | None,
    host: str | None,
    root: str,
    wait_for_gpus: int,
    format_: str,
    program: str | None,
    state_dir: str,
    log_dir: str,
    stop_signal: str,
) -> int:
    """Show what `apply` would change: the files as `diff -u` does, then what would be done about each agent.

    Exit code 0: nothing; 1: something. Values of variables that the topology sets are not shown.
    """
    found = planned(topology=topology, inventory=inventory, host=host, root=root, wait_for_gpus=wait_for_gpus)
    emitter = emitter_for(format_)
    change = change_for(
        found.root,
        found.plan,
        emitter,
        site=site_for(program, state_dir=state_dir, log_dir=log_dir, stop_signal=stop_signal),
        names=found.names,
    )
    for line in unified_diff(change.before, change.after):
        click.echo(line)
    for step in change.steps:
        if step.paths:
            click.echo(f"{step.agent}: {step.action.value}", err=True)
    for warning in found.plan.warnings:
        click.echo(f"supervisor-gen: WARNING: {warning}", err=True)
    return 0 if change.is_empty else 1
