"""`supervisor-gen plan`: which agents there should be."""

from __future__ import annotations

import json

import click

from agent.errors import ConfigError, GpuSpecError
from supervisor_gen.cli.options import Planning, planned, planning_options
from supervisor_gen.cli.sources import hosts_in
from supervisor_gen.fleet import FleetPlan, plan_fleet
from supervisor_gen.report import fleet_table, fleet_to_json, plan_table, plan_to_json
from supervisor_gen.topology import read_topology


@click.command("plan", short_help="Show which agents a host, or a fleet, should have.")
@planning_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--fleet", is_flag=True, help="Plan every host that --inventory (a file, or a folder of files) describes."
)
def command(*, planning: Planning, as_json: bool, fleet: bool) -> int:
    """Show which agents there should be. Changes nothing."""
    if fleet:
        if planning.inventory is None:
            raise click.UsageError("--fleet needs --inventory")
        return _fleet(planning.topology_file(), planning.inventory, as_json=as_json)
    plan = planned(planning).plan
    click.echo(json.dumps(plan_to_json(plan), indent=2) if as_json else plan_table(plan))
    return 0


def _fleet(topology: str, inventory: str, *, as_json: bool) -> int:
    declared = read_topology(topology)
    unread: list[ConfigError] = []
    plan = plan_fleet(((host.host, host.inventory) for host in hosts_in(inventory, unread)), declared)
    click.echo(json.dumps(fleet_to_json(plan)) if as_json else fleet_table(plan))
    for error in unread:
        click.echo(f"supervisor-gen: ERROR: {error.message}", err=True)
    return ConfigError.exit_code if unread else _code_of(plan)


def _code_of(plan: FleetPlan) -> int:
    return GpuSpecError.exit_code if plan.errors or plan.problems else 0
