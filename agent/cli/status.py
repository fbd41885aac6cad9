"""`clearml-agent daemon --status`: this host's agents as they and the server see them, and their hours."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from agent.api import queues as queue_calls
from agent.api import workers as worker_calls
from agent.api.client import Client, open_client
from agent.api.workers import FORCE, Property
from agent.cli.records import LiveAgent, live_agents
from agent.config.schema import Settings
from agent.errors import ApiError, ConfigError
from agent.schedule import read_schedule
from agent.wire import mapping, mappings, shown, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the server tells: workers as `workers.get_all` has them, tags by queue id, properties by worker id.

    `properties` is None where the server has none.
    """

    workers: Sequence[Mapping[str, Any]] = ()
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    properties: Mapping[str, Mapping[str, Property]] | None = None


def show_status(settings: Settings) -> int:
    """Print every agent of this host and every worker of its name on the server; the exit code is 0."""
    living = live_agents(settings)
    client = open_client(settings.api, name=settings.agent.worker_name)
    try:
        told = _ask(client, settings, living)
    finally:
        client.close()
    click.echo(f"Server: {settings.api.api_server}")
    click.echo(f"Configured hours: {hours_line(_configured(settings), now=time.time())}")
    for line in status_lines(living, told, now=time.time()):
        click.echo(shown(line))
    return 0


def _ask(client: Client, settings: Settings, living: Sequence[LiveAgent]) -> Told:
    found = mappings(client.call("workers.get_all", {"last_seen": 0}).get("workers"))
    own = [worker for worker in found if _is_ours(text(worker.get("id")), settings)]
    ids = sorted({text(queue.get("id")) for worker in own for queue in mappings(worker.get("queues"))} - {""})
    tags = {queue.id: queue.tags for queue in client.send(queue_calls.by_ids(ids))} if ids else {}
    names = sorted({str(worker["id"]) for worker in own} | {agent.worker_id for agent in living})
    return Told(workers=own, tags=tags, properties=_properties(client, names))


def _properties(client: Client, names: Sequence[str]) -> dict[str, Mapping[str, Property]] | None:
    try:
        found: dict[str, Mapping[str, Property]] = {}
        for name in names:
            properties = client.send(worker_calls.runtime_properties(name))
            found[name] = properties
        return found
    except ApiError as error:
        if error.is_server_fault:
            raise
        return None


def _configured(settings: Settings) -> Mapping[str, Any]:
    agent = settings.agent
    return {"uptime": agent.uptime, "downtime": agent.downtime, "timezone": agent.timezone}


def status_lines(living: Sequence[LiveAgent], told: Told, *, now: float) -> list[str]:
    """A paragraph per worker id, from both views."""
    local = {agent.worker_id: agent for agent in living}
    known = {str(worker["id"]): worker for worker in told.workers}
    if not local and not known:
        return ["No agent of this host is running, and the server knows none."]
    lines = []
    for worker_id in sorted(local.keys() | known.keys()):
        agent, worker = local.get(worker_id), known.get(worker_id)
        lines.append(f"Worker {worker_id}: {_process(agent)}; {_server(worker, now)}")
        if agent is not None:
            lines.append(f"  hours: {hours_line(agent.hours, now=now)}")
        lines.append(f"  force: {_force(worker_id, told, now)}")
        if worker is not None:
            lines.append(f"  queues: {', '.join(_queues(worker, told)) or 'none'}")
            lines.append(f"  task: {_task(mapping(worker.get('task')))}")
    return lines


def hours_line(hours: Mapping[str, Any], *, now: float) -> str:
    """The working hours as they are understood, and when they change next."""
    try:
        schedule = read_schedule(
            uptime=tuple(hours.get("uptime") or ()),
            downtime=tuple(hours.get("downtime") or ()),
            timezone=str(hours.get("timezone") or ""),
        )
    except ConfigError as error:
        return error.message
    if schedule is None:
        return "always"
    at = datetime.fromtimestamp(now, schedule.zone)
    change = schedule.next_change(at)
    state = "open" if schedule.is_open(at) else "closed"
    return f"{schedule.spec}, {state} {'until ' + _moment(change) if change else 'for good'}"


def _force(worker_id: str, told: Told, now: float) -> str:
    if told.properties is None:
        return "this server has no runtime properties"
    force = told.properties.get(worker_id, {}).get(FORCE)
    if force is None or not force.value:
        return "no"
    if force.seconds_left is None:
        return f"{force.value}, until it is changed"
    return f"{force.value} until {_moment(datetime.fromtimestamp(now + force.seconds_left).astimezone())}"


def _moment(at: datetime) -> str:
    return f"{at:%a %Y-%m-%d %H:%M %Z}".rstrip()


def _queues(worker: Mapping[str, Any], told: Told) -> Iterator[str]:
    for queue in mappings(worker.get("queues")):
        tags = ", ".join(told.tags.get(str(queue.get("id")), ()))
        yield f"{queue.get('name') or queue.get('id')}{f' [{tags}]' if tags else ''}"


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
