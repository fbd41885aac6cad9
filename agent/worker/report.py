"""How an agent is, for `clearml-agent status`: what it knows itself, whether or not its server answers.

docs/operations.md describes every key. Times are ISO 8601 in UTC. Nothing secret is in it: of the configuration only
what is named here, and of every text what the log would show.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from agent import __version__
from agent.config.schema import Settings
from agent.files import Json
from agent.logs import recent_entries, without_secrets
from agent.process.procfs import start_ticks_of
from agent.runner.console import Console
from agent.runner.rundir import Claim, RunDirectory
from agent.worker.post import Post
from agent.worker.reload import Attempt
from agent.worker.standing import Stand, Standing


def report_of(post: Post, reload: Attempt | None) -> Json:
    """Everything that `status --json` shows of one agent. Reads files: not for the event loop."""
    duty, stand = post.duty, stand_of(post)
    report: Json = {
        "worker": post.identity.worker_id,
        "pid": os.getpid(),
        "version": __version__,
        "since": _moment(_process_began_at()),
        "ready": duty.ready_at is not None,
        "ready_since": _moment(duty.ready_at),
        "standing": stand.standing.value,
        "why": stand.why,
        "until": stand.until,
        "bars": [{"standing": bar.standing.value, "why": bar.why} for bar in post.bars.every()],
        "draining": post.stop.drain.is_set(),
        "leaving": post.stop.leave.is_set(),
        "doing": post.supervisor.text,
        "queues": _queues(post),
        "server": _server(post),
        "tasks": [_task(run, claim) for run, claim in post.runs.of_agent(post.identity.worker_id)],
        "hours": hours_of(post.settings),
        "gpus": _gpus(post),
        "configuration": {
            "sources": list(post.settings.sources),
            "since": _moment(duty.begun_at),
            "last_reload": None if reload is None else _attempt(reload),
        },
        "errors": [{**entry, "at": _moment(entry["at"])} for entry in recent_entries()],
    }
    said: Json = without_secrets(report)
    return said


def stand_of(post: Post) -> Stand:
    """How the agent stands as it would be told to the server now."""
    if post.stop.drain.is_set():
        return Stand(standing=Standing.DRAINING)
    if post.bars:
        return post.bars.stand
    return post.duty.presence.stand if post.duty.presence is not None else Stand()


def hours_of(settings: Settings) -> Json:
    """The working hours as they were given."""
    agent = settings.agent
    return {"uptime": list(agent.uptime), "downtime": list(agent.downtime), "timezone": agent.timezone}


def _queues(post: Post) -> list[Json]:
    """The queues as the server has them; before it was asked, by the names or ids that were given."""
    if post.duty.crew is None:
        return [{"name": name, "id": None, "gone": False} for name in post.setup.queues]
    return [{"name": queue.name, "id": queue.id, "gone": queue.is_gone} for queue in post.duty.crew.listening.queues]


def _server(post: Post) -> Json:
    contact = post.api.sync.contact
    return {
        "url": post.api.sync.base_url,
        "reachable": contact.is_up,
        "since": _moment(contact.since),
        "error": contact.error,
    }


def _task(run: RunDirectory, claim: Claim) -> Json:
    task, launch = run.read_task(), run.read("launch") or {}
    pid = launch.get("pid")
    lives = isinstance(pid, int) and start_ticks_of(pid) == launch.get("start_ticks")
    return {
        "id": claim.task,
        "name": task.name if task is not None else "",
        "queue": claim.queue_name,
        "worker": claim.worker,
        "phase": claim.phase.value,
        "started": _moment(claim.claimed_at_ms / 1000),
        "executor_pid": pid if lives else None,
        "unshipped_bytes": Console(run.console).unshipped_bytes(),
        "gpus": list(claim.devices),
    }


def _gpus(post: Post) -> Json:
    setup = post.setup
    units: Iterable[Mapping[str, Any]] = setup.units
    return {
        "asked_for": setup.gpus,
        "cpu_only": setup.cpu_only,
        "units": [{"label": unit.get("label"), "uuid": unit.get("uuid")} for unit in units],
    }


def _attempt(attempt: Attempt) -> Json:
    return {"at": _moment(attempt.at), "error": attempt.error, "exit_code": attempt.exit_code}


def _moment(epoch: float | None) -> str | None:
    return None if epoch is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def _process_began_at() -> float:
    """When this process was started, which a reload does not change."""
    ticks = start_ticks_of(os.getpid()) or 0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
