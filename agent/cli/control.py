"""Talking to the agents of this host through their control sockets (`agent.worker.control` is the other end)."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.records import LiveAgent, live_agents
from agent.config.schema import Settings
from agent.errors import AgentError, AgentSilent, UnknownAgent, UsageError
from agent.gpu.visible import parse_visibility

F = TypeVar("F", bound=Callable[..., Any])
Json = dict[str, Any]

VERSION = 1
#: An agent has no socket for a moment after its start, and while it starts anew with another configuration.
PATIENCE_SECONDS = 5.0
ANSWER_SECONDS = 20.0
LOOK_SECONDS = 0.05


def chosen_by(command: F) -> F:
    """Add what says which agents are meant, for commands that act on some."""
    options = (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--all", "is_all", is_flag=True, help="All agents of this host and state directory."),
        click.option("--gpus", metavar="SPEC", help="Without an ID: the agent with these GPUs."),
        click.option("--cpu-only", is_flag=True, help="Without an ID: the agent without GPUs."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def on_each(
    settings: Settings,
    ids: Sequence[str],
    act: Callable[[LiveAgent], None],
    *,
    is_all: bool,
    gpus: str | None,
    cpu_only: bool,
    env: Mapping[str, str],
) -> int:
    """Do something with each agent that is meant. One that fails does not keep the others from it; then the first
    failure is raised, and after those the ids that no agent has.
    """
    living = live_agents(settings)
    if is_all and ids:
        raise UsageError("worker ids and --all exclude each other")
    suffix = parse_visibility(gpus, cpu_only or settings.agent.cpu_only, env).worker_suffix()
    chosen = living if is_all else pick(living, ids, settings, suffix=suffix)
    failures = []
    for agent in chosen:
        try:
            act(agent)
        except AgentError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    if missing := tuple(name for name in ids if name not in {agent.worker_id for agent in chosen}):
        raise unknown(missing, living)
    return 0


def pick(
    living: Sequence[LiveAgent], ids: Sequence[str], settings: Settings, *, suffix: str | None
) -> tuple[LiveAgent, ...]:
    """The agents with these ids; without ids the only one that configuration and options can mean."""
    if ids:
        return tuple(agent for agent in living if agent.worker_id in ids)
    own, name = settings.agent.worker_id, settings.agent.worker_name
    if own:
        found = [agent for agent in living if agent.worker_id == own]
    else:
        beginning = f"{name}:{suffix}" if suffix else f"{name}:"
        found = [agent for agent in living if f"{agent.worker_id}:".startswith(f"{beginning.rstrip(':')}:")]
    if not found:
        raise unknown((own or "that these options describe",), living)
    if len(found) > 1:
        names = ", ".join(agent.worker_id for agent in found)
        raise UsageError(f"which agent is meant? There are {names}", hint="Name some of them, or say --all.")
    return tuple(found)


def unknown(names: Sequence[str], living: Sequence[LiveAgent]) -> UnknownAgent:
    """That no agent has these ids, and which ones there are."""
    running = ", ".join(agent.worker_id for agent in living) or "none"
    return UnknownAgent(f"no agent {', '.join(names)} is running on this host", hint=f"Running: {running}.")


def ask(
    agent: LiveAgent,
    do: str,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
    **more: object,
) -> Json:
    """Ask an agent for something and return its answer. Raises AgentSilent, or the AgentError that it answers with."""
    request = {"version": VERSION, "do": do, **more}
    try:
        with _connected(agent, patience_seconds) as connection:
            connection.settimeout(answer_seconds)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = _read(connection)
    except PermissionError as error:
        raise AgentError(f"agent {agent.worker_id} (pid {agent.pid}) belongs to another user") from error
    except (OSError, ValueError) as error:
        raise AgentSilent(
            f"agent {agent.worker_id} (pid {agent.pid}) does not answer at its control socket",
            hint=f"{agent.control}: {getattr(error, 'strerror', None) or error}.",
        ) from error
    if answer.get("ok"):
        return answer
    refusal = AgentError(f"{agent.worker_id}: {answer.get('error')}", hint=str(answer.get("hint") or ""))
    refusal.exit_code = int(answer.get("exit_code") or 1)
    raise refusal


def _connected(agent: LiveAgent, patience_seconds: float) -> socket.socket:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _connect(agent.control)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline or not agent.is_alive:
                raise
            time.sleep(LOOK_SECONDS)


def _connect(path: Path) -> socket.socket:
    """A connection to the socket at `path`, which may be longer than an address can be: unix(7) allows 107 bytes."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(f"/proc/self/fd/{place}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection


def _read(connection: socket.socket) -> Json:
    with connection.makefile("rb") as stream:
        answer = json.loads(stream.readline())
    if not isinstance(answer, dict):
        raise ValueError("not an answer")
    return answer
