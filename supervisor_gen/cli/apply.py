"""`supervisor-gen apply`: make this host have exactly the planned agents."""

from __future__ import annotations

import json
from dataclasses import replace

import click

from agent.errors import AgentError, GpusUnknown
from agent.gpu.model import Unknown
from agent.gpu.wire import host_to_json
from agent.table import table
from supervisor_gen import holds, state
from supervisor_gen.apply import HELD, Change, Result, apply, change_for, write
from supervisor_gen.cli.options import (
    READY_TIMEOUT,
    SUPERVISOR_CONFIG,
    Emission,
    Planned,
    Planning,
    emitting_options,
    planned,
    planning_options,
    tell_warnings,
)
from supervisor_gen.preflight import check
from supervisor_gen.steps import Action
from supervisor_gen.supervisors import HIDDEN, supervisor_for
from supervisor_gen.supervisors.systemd import enable_in
from supervisor_gen.writer import unified_diff

#: How long the driver may take to answer at boot.
BOOT_SECONDS = 60


@click.command("apply", short_help="Make this host have exactly the planned agents.")
@planning_options
@emitting_options
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option(
    "--no-wait", is_flag=True, help="Do not wait for agents that finish a task first; the next apply goes on."
)
@READY_TIMEOUT
@click.option("--boot", is_flag=True, help="As at boot: wait for nothing but the driver (a minute).")
@SUPERVISOR_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(
    *,
    planning: Planning,
    emission: Emission,
    dry_run: bool,
    no_wait: bool,
    ready_timeout: int,
    boot: bool,
    supervisor_config: str | None,
    as_json: bool,
) -> int:
    """Write the units, start new agents, leave unchanged ones running, and drain and stop those that are gone.

    A changed agent is restarted, which leaves its task running. One that goes, or gets other GPUs, finishes its task
    first; apply waits for that (Ctrl-C is safe, and --no-wait leaves it to the next apply). With --root nothing but
    files is touched, so that an image can be prepared.
    """
    if boot:
        planning, no_wait, ready_timeout = replace(planning, wait_for_gpus=BOOT_SECONDS), True, 0
    found = planned(planning)
    tell_warnings(found.plan)
    emitter, site = emission.emitter, emission.site
    change = change_for(found.root, found.plan, emitter, site=site, names=found.names)
    supervisor = supervisor_for(emission.format, root=found.root, configuration=supervisor_config, site=site)
    if dry_run:
        return _finish(found, _would(change), as_json=as_json, change=change)
    with state.locked(found.root):
        check(found.root, change.after, found.plan, site, hidden=HIDDEN[emission.format], offline=supervisor is None)
        if supervisor is None:
            write(change, found.plan, emitter, site, draining=())
            state.save(found.root, change.names_after, _inventory(found))
            holds.release(found.root, change.agents(Action.REMOVE))
            if emission.format == "systemd":
                enable_in(found.root)
            return _finish(found, Result(done=_would(change).done), as_json=as_json)
        result = apply(
            change,
            found.plan,
            emitter,
            supervisor,
            site,
            inventory=_inventory(found),
            wait_for_tasks=not no_wait,
            ready_seconds=ready_timeout,
            say=lambda line: click.echo(line, err=True),
        )
    return _finish(found, result, as_json=as_json)


def _inventory(found: Planned) -> dict[str, object] | None:
    """What the boot-time shim is to plan with; None leaves what it has."""
    return None if isinstance(found.host.inventory, Unknown) else host_to_json(found.host)


def _would(change: Change) -> Result:
    words = {
        Action.KEEP: "unchanged",
        Action.START: "start",
        Action.RESTART: "restart",
        Action.REPLACE: "drain, then start with other devices",
        Action.REMOVE: "drain, then remove",
    }
    held = holds.read(change.root)
    drained = (Action.REPLACE, Action.REMOVE)
    return Result(
        done={
            step.agent: HELD if step.agent in held and step.action not in drained else words[step.action]
            for step in change.steps
        }
    )


def refuse_failed(result: Result) -> None:
    """Raise AgentError that names the agents that did not come up."""
    if result.failed:
        names = ", ".join(sorted(result.failed))
        raise AgentError(f"not running: {names}", hint="Their logs say why: journalctl -u 'clearml-agent@*' -n 50")


def _finish(found: Planned, result: Result, *, as_json: bool, change: Change | None = None) -> int:
    """Tell what was done. Raises AgentError for what a caller has to know by the exit code."""
    if as_json:
        value = {
            "host": found.plan.host,
            "done": result.done,
            "waiting": result.waiting,
            "failed": result.failed,
            "warnings": list(found.plan.warnings),
            "unknown": found.plan.unknown,
        }
        click.echo(json.dumps(value, indent=2))
    else:
        if change is not None:
            for line in unified_diff(change.before, change.after):
                click.echo(line)
        rows = [
            (agent, result.done.get(agent, ""), result.failed.get(agent, result.waiting.get(agent, "")))
            for agent in sorted({*result.done, *result.waiting, *result.failed})
        ]
        click.echo(table(("AGENT", "", "NOW"), rows))
    refuse_failed(result)
    if found.plan.unknown:
        raise GpusUnknown(
            f"nobody can tell which GPUs this host has: {found.plan.unknown}",
            hint="Agents with GPUs were left as they are; nothing was removed.",
        )
    return 0
