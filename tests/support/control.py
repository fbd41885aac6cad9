"""Operating a real agent: `clearml-agent` on its state directory, and its control socket without our client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.cli import Result, run_cli

from agent.worker.identity import file_name_of


def operate(state: Path, *words: str, seconds: float = 60, **variables: str) -> Result:
    """`clearml-agent WORDS` on the host that has this state directory, with no configuration but that."""
    home = state.parent / "home"
    home.mkdir(exist_ok=True)
    return run_cli(home, *words, seconds=seconds, STATE_DIRECTORY=str(state), **variables)


def start_operating(state: Path, *words: str) -> subprocess.Popen[str]:
    """The same, not waited for."""
    command = [sys.executable, "-m", "agent.cli", *words]
    environ = {**os.environ, "STATE_DIRECTORY": str(state), "HOME": str(state.parent)}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reports(state: Path, *ids: str) -> dict[str, dict[str, Any]]:
    """What `status --json` says, by worker id."""
    done = operate(state, "status", *ids, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["version"] == 1
    return {agent["worker"]: agent for agent in told["agents"]}


def socket_in(state: Path, worker_id: str) -> Path:
    """Where the agent with this id listens."""
    return state / "workers" / f"{file_name_of(worker_id)}.sock"


def send(path: Path, data: bytes, *, ends: bool = True, seconds: float = 20.0) -> dict[str, Any] | None:
    """Send bytes to a socket and read the answer; None if the other side closes without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        client.connect(str(path))
        try:
            client.sendall(data)
            if ends:
                client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as stream:
                line = stream.readline()
        except (BrokenPipeError, ConnectionResetError):
            return None
    return json.loads(line) if line else None
