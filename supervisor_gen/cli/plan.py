"""`supervisor-gen plan`: which agents there should be."""

from __future__ import annotations

import json

import click

from agent.errors import GpuSpecError
from supervisor_gen.cli.options import TOPOLOGY, hosts_in, planned, planning_options, waiting_option
from supervisor_gen.fleet import FleetPlan, plan_fleet
from supervisor_gen.report import fleet_table, fleet_to_json, plan_table, plan_to_json
from supervisor_gen.topology import read_topology


@click.command("plan", short_help="Show which agents a host, or a fleet, should have.")
@planning_options
@waiting_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--fleet", is_flag=True, help="Plan every host that --inventory (a file, or a folder of files) describes."
)
def command(
    *,
    topology: str | None,
    inventory: str | None,
    host: str | None,
    root: str,
    wait_for_gpus: int,
    as_json: bool,
    fleet: bool,
) -> int:
    """Show which agents there should be. Changes nothing."""
    if fleet:
        if inventory is None:
            raise click.UsageError("--fleet needs --inventory")
        return _fleet(topology or f"{root.rstrip('/')}/{TOPOLOGY}", inventory, as_json=as_json)
    found = planned(topology=topology, inventory=inventory, host=host, root=root, wait_for_gpus=wait_for_gpus)
    click.echo(json.dumps(plan_to_json(found.plan), indent=2) if as_json else plan_table(found.plan))
    return 0


def _fleet(topology: str, inventory: str, *, as_json: bool) -> int:
    declared = read_topology(topology)
    plan = plan_fleet(((host.host, host.inventory) for host in hosts_in(inventory)), declared)
    click.echo(json.dumps(fleet_to_json(plan)) if as_json else fleet_table(plan))
    return _code_of(plan)


def _code_of(plan: FleetPlan) -> int:
    return GpuSpecError.exit_code if plan.errors or plan.problems else 0
