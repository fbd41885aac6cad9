"""supervisord, through supervisorctl. Each agent is a group of its own, so `update` touches only what it is told to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervisor_gen.model import Site
from supervisor_gen.supervisors.base import Condition, State
from supervisor_gen.supervisors.commands import run

#: States of supervisor/states.py.
_CONDITIONS = {
    "STOPPED": Condition.GONE,
    "EXITED": Condition.GONE,
    "FATAL": Condition.FAILED,
    "UNKNOWN": Condition.FAILED,
    "STARTING": Condition.STARTING,
    "BACKOFF": Condition.FAILED,
    "STOPPING": Condition.STARTING,
    "RUNNING": Condition.RUNNING,
}
#: `supervisorctl status` ends with 3 when a process does not run, with 4 when it does not know a name.
_NOT_ALL_RUN = (0, 3, 4)


class Supervisord:
    """A supervisord, named by its configuration file or found where supervisorctl looks."""

    def __init__(self, configuration: str | None, site: Site) -> None:
        self._folders = (site.state_dir, site.log_dir)
        beside_us = os.path.join(os.path.dirname(sys.executable), "supervisorctl")
        program = shutil.which("supervisorctl") or beside_us
        self._command = (program, *(("-c", configuration) if configuration else ()))

    def _run(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        return run([*self._command, *words], accept=accept)

    def states(self, agents: Sequence[str]) -> Mapping[str, State]:
        said: dict[str, State] = {}
        for line in self._run("status", accept=_NOT_ALL_RUN).splitlines():
            name, _, rest = line.partition(" ")
            word, _, about = rest.strip().partition(" ")
            if word in _CONDITIONS:
                said[name] = State(condition=_CONDITIONS[word], says=about.strip())
        return {agent: said.get(agent, State(condition=Condition.GONE)) for agent in agents}

    def prepare(self) -> None:
        """supervisord refuses a configuration whose log folder is not there."""
        for folder in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True, mode=0o755)

    def reload(self, agents: Sequence[str]) -> None:
        self._run("reread")

    def start(self, agents: Sequence[str]) -> None:
        if agents:
            self._run("update", *agents)
            waiting = self.states(agents)
            idle = [agent for agent in agents if waiting[agent].condition in (Condition.GONE, Condition.FAILED)]
            if idle:
                self._run("start", *idle, accept=(0, 7))

    def restart(self, agents: Sequence[str]) -> None:
        """`update` stops what has changed by TERM, which leaves its task alone, and starts it again."""
        if agents:
            self._run("update", *agents)

    def drain(self, agents: Sequence[str]) -> None:
        if agents:
            self._run("signal", "USR1", *agents, accept=(0, 1, 7))

    def forget(self, agents: Sequence[str]) -> None:
        if agents:
            self._run("reread")
            self._run("update", *agents)
