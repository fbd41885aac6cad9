"""`clearml-agent daemon --stop`: lets agents of this host go, in one of three ways."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import click

from agent.cli.control import ask, unknown
from agent.cli.records import LiveAgent, live_agents
from agent.config.schema import AgentSettings, Settings
from agent.errors import AgentError, AgentSilent, Interrupted
from agent.gpu.visible import parse_visibility

if TYPE_CHECKING:
    from agent.cli.daemon import Wishes

#: What an agent takes to report a task that it has ended, beyond the task's own grace.
REPORT_SECONDS = 30.0
LOOK_SECONDS = 0.05


class Way(StrEnum):
    """How an agent goes, by the word that it is asked with."""

    END = "stop"
    DRAIN = "drain"
    LEAVE = "leave"


#: For an agent whose socket does not answer.
SIGNALS = {Way.END: signal.SIGINT, Way.DRAIN: signal.SIGUSR1, Way.LEAVE: signal.SIGTERM}
DONE = {Way.END: "Stopped", Way.DRAIN: "Drained", Way.LEAVE: "Let go"}


def stop_agents(
    settings: Settings,
    wishes: Wishes,
    ids: Sequence[str],
    *,
    env: Mapping[str, str],
    way: Way = Way.END,
    drain_seconds: float | None = None,
) -> int:
    """Stop the agents with these ids, or the one that the same options would have started; 0 once they are gone.

    A drain is waited for as long as it takes, or for `drain_seconds`; 0: not at all.
    """
    living = live_agents(settings)
    visibility = parse_visibility(wishes.gpus, wishes.cpu_only, env)
    suffix = visibility.worker_suffix()
    suffix = f"d{suffix}" if wishes.ranges else suffix
    chosen = choose(living, ids, settings.agent, suffix=suffix, is_shared=wishes.share is not None)
    if not chosen and not ids:
        running = ", ".join(agent.worker_id for agent in living) or "none"
        raise AgentError("no agent that these options describe is running on this host", hint=f"Running: {running}.")
    tasks = {agent.worker_id: _tell(agent, way) for agent in chosen}
    if way is Way.DRAIN:
        _wait_for_drains(chosen, tasks, drain_seconds)
    else:
        _wait_for_ends(chosen, tasks, way, time.monotonic() + settings.agent.stop_grace_seconds + REPORT_SECONDS)
    if missing := tuple(name for name in ids if name not in tasks):
        raise unknown(missing, living)
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


def _tell(agent: LiveAgent, way: Way) -> tuple[str, ...]:
    """Ask the agent to go; returns its tasks, as far as it says."""
    try:
        return tuple(ask(agent, way, patience_seconds=0.0)["tasks"])
    except AgentSilent:
        _signal(agent, way)
        return ()


def _signal(agent: LiveAgent, way: Way) -> None:
    try:
        os.kill(agent.pid, SIGNALS[way])
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise AgentError(f"agent {agent.worker_id} (pid {agent.pid}) belongs to another user") from error


def _wait_for_ends(agents: Sequence[LiveAgent], tasks: Mapping[str, Sequence[str]], way: Way, deadline: float) -> None:
    for agent in agents:
        if not _is_gone(agent, deadline):
            raise AgentError(
                f"agent {agent.worker_id} (pid {agent.pid}) is still running",
                hint="It was asked to stop; `kill -9` ends it, and leaves its task to the next agent.",
            )
        left = tasks[agent.worker_id] if way is Way.LEAVE else ()
        runs_on = f"; {', '.join(left)} runs on for the next agent" if left else ""
        click.echo(f"{DONE[way]} {agent.worker_id} (pid {agent.pid}){runs_on}")


def _wait_for_drains(agents: Sequence[LiveAgent], tasks: Mapping[str, Sequence[str]], seconds: float | None) -> None:
    """Say what is waited for, and wait. A drain goes on whether or not somebody waits for it."""
    try:
        for agent in agents:
            waits = f"; waits for {', '.join(tasks[agent.worker_id])}" if tasks[agent.worker_id] else ""
            click.echo(f"Draining {agent.worker_id} (pid {agent.pid}){waits}")
        if seconds != 0:
            _wait_until_drained(agents, seconds)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted: the agents go on draining") from error


def _wait_until_drained(agents: Sequence[LiveAgent], seconds: float | None) -> None:
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    for agent in agents:
        if not _is_gone(agent, deadline):
            raise AgentError(
                f"agent {agent.worker_id} (pid {agent.pid}) still has a task after {seconds:.0f} s",
                hint="It goes on draining. The same command waits on; `--stop` without --drain ends the task.",
            )
        click.echo(f"{DONE[Way.DRAIN]} {agent.worker_id} (pid {agent.pid})")


def _is_gone(agent: LiveAgent, deadline: float) -> bool:
    while agent.is_alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True
