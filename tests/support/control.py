"""Operating a real agent: `clearml-agent` on its state directory, and its control socket without our client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.agent import wait_for
from support.cli import Result, run_cli

from agent.steps import WATCHER, Step
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


class Holder:
    """Stands in the way of whoever reaches one step, until `release`; everybody else may go on at once."""

    def __init__(self, path: Path, step: Step) -> None:
        self.environ = {WATCHER: str(path)}
        self._step = step
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            step = client.recv(256).decode().split()[:1]
            if step == [self._step.value]:
                self._held.append(client)
            else:
                client.close()

    def wait(self) -> None:
        wait_for(lambda: self._held, what=f"somebody at {self._step}")

    def release(self) -> None:
        for client in self._held:
            client.close()

    def close(self) -> None:
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextmanager
def holding(path: Path, step: Step) -> Iterator[Holder]:
    """Hold whoever reaches `step` while the block runs, or until released."""
    holder = Holder(path, step)
    try:
        yield holder
    finally:
        holder.close()
