"""`clearml-agent daemon --stop`: ends agents of this host, and their tasks with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from agent.cli.records import LiveAgent, live_agents
from agent.config.schema import AgentSettings, Settings
from agent.errors import AgentError
from agent.gpu.visible import parse_visibility

if TYPE_CHECKING:
    from agent.cli.daemon import Wishes

#: What an agent takes to report a task that it has ended, beyond the task's own grace.
REPORT_SECONDS = 30.0
LOOK_SECONDS = 0.05


def stop_agents(settings: Settings, wishes: Wishes, ids: Sequence[str], *, env: Mapping[str, str]) -> int:
    """Stop the agents with these ids, or the one that the same options would have started; 0 once they are gone."""
    living = live_agents(settings)
    visibility = parse_visibility(wishes.gpus, wishes.cpu_only, env)
    suffix = visibility.worker_suffix()
    suffix = f"d{suffix}" if wishes.ranges else suffix
    chosen = choose(living, ids, settings.agent, suffix=suffix, is_shared=wishes.share is not None)
    if not chosen:
        wanted = ", ".join(ids) or "that these options describe"
        running = ", ".join(agent.worker_id for agent in living) or "none"
        raise AgentError(f"no agent {wanted} is running on this host", hint=f"Running: {running}.")
    missing = set(ids) - {agent.worker_id for agent in chosen}
    for agent in chosen:
        _interrupt(agent)
    deadline = time.monotonic() + settings.agent.stop_grace_seconds + REPORT_SECONDS
    for agent in chosen:
        _wait(agent, deadline)
        click.echo(f"Stopped {agent.worker_id} (pid {agent.pid})")
    if missing:
        raise AgentError(f"no agent {', '.join(sorted(missing))} is running on this host")
    return 0


def choose(
    living: Sequence[LiveAgent],
    ids: Sequence[str],
    agent: AgentSettings,
    *,
    suffix: str | None,
    is_shared: bool = False,
) -> tuple[LiveAgent, ...]:
    """The agents to stop. Without ids: the one configured, or the one with these GPUs, or the first of this name, or of
    those that share these GPUs.
    """
    if ids:
        return tuple(candidate for candidate in living if candidate.worker_id in ids)
    if agent.worker_id:
        return tuple(candidate for candidate in living if candidate.worker_id == agent.worker_id)
    if suffix and suffix != "cpu" and not is_shared:
        return tuple(candidate for candidate in living if candidate.worker_id == f"{agent.worker_name}:{suffix}")
    beginning = f"{agent.worker_name}:{suffix}:" if suffix else f"{agent.worker_name}:"
    return tuple(candidate for candidate in living if candidate.worker_id.startswith(beginning))[:1]


def _interrupt(agent: LiveAgent) -> None:
    try:
        os.kill(agent.pid, signal.SIGINT)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise AgentError(f"agent {agent.worker_id} (pid {agent.pid}) belongs to another user") from error


def _wait(agent: LiveAgent, deadline: float) -> None:
    while agent.is_alive:
        if time.monotonic() > deadline:
            raise AgentError(
                f"agent {agent.worker_id} (pid {agent.pid}) is still running",
                hint="It was asked to stop; `kill -9` ends it, and leaves its task to the next agent.",
            )
        time.sleep(LOOK_SECONDS)
