"""`clearml-agent daemon --detached`: a daemon in the background, reported on once it is ready or has failed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import click

from agent.cli.daemon import become_worker
from agent.cli.records import live_agents, state_folder
from agent.config.schema import Settings
from agent.errors import AgentError
from agent.models import WorkerSetup
from agent.worker.identity import file_name_of

#: A line of `agent.logs.TextFormatter`.
_ERROR = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) \S+(?: \[\S+\])? (.*)$")

READY_SECONDS = 60.0
LOOK_SECONDS = 0.02
#: What the waiting process tells the one that was typed, besides an exit code of the daemon.
STILL_STARTING = 255


def start_detached(settings: Settings, setup: WorkerSetup, environment: Mapping[str, str]) -> int:
    """Start the daemon in a session of its own and wait until it is ready; 0, or what it ended with.

    Two forks: the first process leads the new session and waits for the daemon, the second one is the daemon, so it
    leads nothing and no terminal can become its own.
    """
    log = state_folder(settings, "logs") / log_name(settings, setup)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    before = os.fstat(descriptor).st_size
    waiting = os.fork()
    if waiting == 0:
        os._exit(_lead_session(settings, setup, environment, descriptor))
    os.close(descriptor)
    _, status = os.waitpid(waiting, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        click.echo(f"Running in the background; log: {log}")
        return 0
    if code == STILL_STARTING:
        click.echo(f"Started in the background, not ready after {READY_SECONDS:.0f} s; log: {log}")
        return 0
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(before)
        said = file.read().strip()
    raise _failure(said, code, log)


def log_name(settings: Settings, setup: WorkerSetup) -> str:
    """The file that a detached daemon logs to. Agents that differ only by a slot, which is not known yet, share one."""
    agent = settings.agent
    suffix = "cpu" if setup.cpu_only else setup.gpu_suffix
    name = agent.worker_id or ":".join(filter(None, (agent.worker_name, suffix)))
    return f"{file_name_of(name)}.log"


def _lead_session(settings: Settings, setup: WorkerSetup, environment: Mapping[str, str], log: int) -> int:
    os.setsid()
    daemon = os.fork()
    if daemon == 0:
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a pipe of the caller's would make somebody wait for us
            become_worker(settings, setup, environment)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(daemon, os.WNOHANG)
        if ended:
            return abs(os.waitstatus_to_exitcode(status)) or 1
        if any(agent.pid == daemon and agent.is_ready for agent in live_agents(settings)):
            return 0
        time.sleep(LOOK_SECONDS)
    return STILL_STARTING


def _failure(said: str, code: int, log: Path) -> AgentError:
    """The daemon's own last words as an error of this command, with the daemon's exit code."""
    message, hint = last_error(said) or (f"the daemon ended with exit code {code}", "")
    error = AgentError(message, hint=f"{hint}\n  Its log is {log}.".strip())
    error.exit_code = code
    return error


def last_error(said: str) -> tuple[str, str] | None:
    """Message and hint of the last error in a log, which may be text or JSON lines; None if there is none."""
    found = None
    lines = said.splitlines()
    for at, line in enumerate(lines):
        if match := _ERROR.search(line):
            following = lines[at + 1] if at + 1 < len(lines) else ""
            found = (match[1], following.strip() if following.startswith("  ") else "")
        elif line.startswith("{"):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if record.get("level") in ("ERROR", "CRITICAL"):
                    message, _, hint = str(record.get("message")).partition("\n")
                    found = (message, hint.strip())
    return found
