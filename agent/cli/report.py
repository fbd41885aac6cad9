"""`clearml-agent status`: how the agents of this host are, by their own account; no server is asked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from agent import config
from agent.cli.control import ask, unknown
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.cli.records import LiveAgent, live_agents
from agent.errors import AgentError

Json = dict[str, Any]

SCHEMA_VERSION = 1
AT_ONCE = 16


@click.command("status", cls=AgentCommand, context_settings=HELP, short_help="Show how this host's agents are.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object (docs/operations.md describes it).")
@click.pass_obj
def command(invocation: Invocation, *, ids: tuple[str, ...], is_json: bool) -> int:
    """Show how the agents of this host and state directory are, by their own account, also while the server is away.
    `daemon --status` shows what the server says of them.
    """
    settings = config.load(invocation.config_file, os.environ, needs_server=False)
    living = live_agents(settings)
    wanted = tuple(agent for agent in living if not ids or agent.worker_id in ids)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = list(pool.map(report_of, wanted))
    if is_json:
        click.echo(json.dumps({"version": SCHEMA_VERSION, "agents": reports}, indent=2, ensure_ascii=False))
    else:
        for report in reports:
            click.echo("\n".join(map(clean, lines_of(report, now=time.time()))))
        if not reports and not ids:
            click.echo("No agent of this host is running.")
    if missing := tuple(name for name in ids if name not in {agent.worker_id for agent in wanted}):
        raise unknown(missing, living)
    return 0


def report_of(agent: LiveAgent) -> Json:
    """What the agent says; if it says nothing, what is known of it."""
    try:
        return {"answers": True, **ask(agent, "status")["agent"]}
    except AgentError as error:
        told = f"{error.message} ({error.hint.rstrip('.')})" if error.hint else error.message
        return {"answers": False, "worker": agent.worker_id, "pid": agent.pid, "ready": agent.is_ready, "error": told}


def lines_of(report: Mapping[str, Any], *, now: float) -> Iterator[str]:
    """A paragraph for a person."""
    if not report["answers"]:
        yield f"{report['worker']} (pid {report['pid']}): {report['error']}"
        return
    yield f"{report['worker']} (pid {report['pid']}, version {report['version']}): {state_of(report)}"
    yield f"  doing: {report['doing'] or 'starting'}"
    yield f"  server: {_server(report['server'])}"
    yield f"  queues: {', '.join(queue['name'] for queue in report['queues']) or 'the default one'}"
    yield from (f"  task: {_task(task)}" for task in report["tasks"])
    yield f"  hours: {_hours(report['hours'], now)}"
    yield f"  configuration: in force since {report['configuration']['since']}"
    reload = report["configuration"]["last_reload"]
    if reload and reload["error"]:
        yield f"  the reload of {reload['at']} failed: {reload['error']}"
    if report["errors"]:
        last = report["errors"][-1]
        yield f"  last {last['level'].lower()}: {last['at']} {last['message']}"


def state_of(report: Mapping[str, Any]) -> str:
    """Whether it is ready, and whether it takes tasks."""
    ready = f"ready since {report['ready_since']}" if report["ready"] else "starting"
    if report["leaving"]:
        return f"{ready}, leaving"
    tail = f" until {report['until']}" if report["until"] else f": {report['why']}" if report["why"] else ""
    return ready if report["standing"] == "open" else f"{ready}, {report['standing']}{tail}"


def _server(server: Mapping[str, Any]) -> str:
    words = {True: "answers", False: "does not answer", None: "not asked yet"}
    why = f" ({server['error']})" if server["error"] else ""
    return f"{server['url']} {words[server['reachable']]}, since {server['since']}{why}"


def _task(task: Mapping[str, Any]) -> str:
    name = f" ({task['name']})" if task["name"] else ""
    left = f", {task['unshipped_bytes']} bytes of console to be sent" if task["unshipped_bytes"] else ""
    return f"{task['id']}{name} from {task['queue']}, {task['phase']} since {task['started']}{left}"


def _hours(hours: Mapping[str, Any], now: float) -> str:
    from agent.cli.status import hours_line

    return hours_line(hours, now=now)


def clean(text: str) -> str:
    """Others chose the names of tasks and queues: nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
