"""What every test of the fault suite has: a queue, an agent that listens to it, a task that counts, and the checker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.agent import AgentProcess, create_script
from support.apiserver import ServerProcess
from support.invariants import Checker, counting_script, processes_of

LINES = 15


class Case:
    """One agent and one task below `place`. `url` is where the agent finds the server, if not directly.

    `script` goes to `counting_script`, `task` are further fields of the task's script; other options are settings of
    the agent. The task waits in the queue until the agent is started.
    """

    def __init__(
        self,
        server: ServerProcess,
        place: Path,
        *,
        url: str | None = None,
        script: Mapping[str, Any] | None = None,
        task: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        setup: Mapping[str, Any] | None = None,
        **agent: Any,
    ) -> None:
        self.server = server
        self.place = place
        self.name = f"{place.name}-{os.urandom(3).hex()}"
        self.queue = server.new_queue(self.name)
        self.script = counting_script(place / "ledger", **{"lines": LINES, **(script or {})})
        self.task = create_script(server, self.script, queue=self.name, **(task or {}))
        lines = int((script or {}).get("lines", LINES))
        self.checker = Checker(server=server, states=[place / "state"], ledger=place / "ledger", lines=lines)
        self._options = {
            "worker_id": f"h:{self.name}",
            "url": url,
            # an agent that is supervised waits for what one that is started by hand would give up on
            "environ": {"SUPERVISOR_ENABLED": "1", **(environ or {})},
            "setup": setup,
            "stop_grace_seconds": 1.0,
            **agent,
        }

    def start(self, *queues: str) -> AgentProcess:
        self.agent = AgentProcess(self.server, self.place / "state", *(queues or (self.name,)), **self._options)
        return self.agent

    def settle(self, *, seconds: float = 60.0, excused: frozenset[str] = frozenset()) -> str:
        """Wait for the end, have everything checked, and answer the task's status."""
        self.checker.settle([self.task], seconds=seconds, excused=excused)
        return self.checker.status(self.task)

    def kill_executor(self) -> None:
        """The executor, and not what it has started, which may still look like an executor."""
        kill(set(processes_of(self.task)) - self._programs())

    def kill_program(self) -> None:
        kill(self._programs())

    def kill_host(self) -> None:
        """Everything of this agent at once, as a power failure would."""
        self.agent.process.kill()
        kill(processes_of(self.task), at_least=0)
        self.agent.kill()

    def _programs(self) -> set[int]:
        return {json.loads(file.read_text())["pid"] for file in self.place.glob("state/runs/*/user.json")}

    def end(self) -> None:
        if self.agent.process.poll() is None:
            self.agent.process.send_signal(signal.SIGINT)
        self.agent.process.wait(60)


def kill(pids: Collection[int], *, at_least: int = 1) -> None:
    """KILL to all of these; AssertionError if there is nobody."""
    assert len(pids) >= at_least, "nobody to kill"
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
