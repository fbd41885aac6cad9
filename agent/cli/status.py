"""`clearml-agent daemon --status`: this host's agents, as they and the server see them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from agent.api.client import open_client
from agent.cli.records import LiveAgent, live_agents
from agent.config.schema import Settings


def show_status(settings: Settings) -> int:
    """Print every agent of this host and every worker of its name on the server; the exit code is 0."""
    client = open_client(settings.api, name=settings.agent.worker_name)
    try:
        workers = client.call("workers.get_all", {"last_seen": 0}).get("workers") or []
    finally:
        client.close()
    own = [worker for worker in workers if _is_ours(str(worker.get("id", "")), settings)]
    click.echo(f"Server: {settings.api.api_server}")
    for line in status_lines(live_agents(settings), own, now=time.time()):
        click.echo(line)
    return 0


def status_lines(living: Sequence[LiveAgent], workers: Sequence[Mapping[str, Any]], *, now: float) -> list[str]:
    """A paragraph per worker id, from both views."""
    local = {agent.worker_id: agent for agent in living}
    known = {str(worker["id"]): worker for worker in workers}
    if not local and not known:
        return ["No agent of this host is running, and the server knows none."]
    lines = []
    for worker_id in sorted(local.keys() | known.keys()):
        lines.append(f"Worker {worker_id}: {_process(local.get(worker_id))}; {_server(known.get(worker_id), now)}")
        if worker := known.get(worker_id):
            queues = [str(queue.get("name") or queue.get("id")) for queue in worker.get("queues") or ()]
            lines.append(f"  queues: {', '.join(queues) or 'none'}")
            task = worker.get("task") or {}
            lines.append(f"  task: {_task(task)}")
    return lines


def _is_ours(worker_id: str, settings: Settings) -> bool:
    agent = settings.agent
    return worker_id == agent.worker_id or worker_id.startswith(f"{agent.worker_name}:")


def _process(agent: LiveAgent | None) -> str:
    if agent is None:
        return "not running here"
    return f"running (pid {agent.pid})" if agent.is_ready else f"starting (pid {agent.pid})"


def _server(worker: Mapping[str, Any] | None, now: float) -> str:
    if worker is None:
        return "unknown to the server"
    seen = _seconds(worker.get("last_activity_time"))
    if seen is None:
        return "registered with the server"
    return f"reported {max(0, round(now - seen))} s ago"


def _seconds(time_text: object) -> float | None:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(str(time_text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _task(task: Mapping[str, Any]) -> str:
    if not task.get("id"):
        return "none"
    name = task.get("name")
    return f"{task['id']} ({name})" if name else str(task["id"])
