"""Agents that are to finish their tasks and leave, and the tasks of agents that do not run any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.files import read_json
from supervisor_gen.supervisors.base import AT_REST, Condition, State, Supervisor

Say = Callable[[str], None]

#: An agent that is between two starts when it is asked to drain is asked again.
ASK_AGAIN_SECONDS = 5.0
#: How long an agent that was started may take until it is seen to run; at boot its turn comes after ours.
BEGIN_SECONDS = 60.0


class Drain:
    """Agents that were asked to finish their tasks and leave, and what they say meanwhile."""

    def __init__(self, supervisor: Supervisor, host: str, state_dir: Path, say: Say) -> None:
        self._supervisor = supervisor
        self._host = host
        self._state_dir = state_dir
        self._say = say
        self._said: dict[str, str] = {}
        self._started_at: dict[str, float] = {}
        self._asked_at = 0.0

    def ask(self, agents: Iterable[str]) -> None:
        """Ask those that run. One that does not, and has left a task behind, is started to account for it."""
        states = self._supervisor.states(sorted(agents))
        behind = [
            agent
            for agent, found in states.items()
            if found.condition in AT_REST
            and agent not in self._started_at
            and has_unfinished(self._state_dir, self._host, agent)
        ]
        self._supervisor.start(behind)
        self._started_at |= dict.fromkeys(behind, time.monotonic())
        self._supervisor.drain([agent for agent, found in states.items() if found.condition not in AT_REST])
        self._asked_at = time.monotonic()

    def ended(self, agents: set[str]) -> set[str]:
        """Those that have left by now; what the others say is passed on whenever it changes."""
        if not agents:
            return set()
        if time.monotonic() > self._asked_at + ASK_AGAIN_SECONDS:
            self.ask(agents)
        states = self._supervisor.states(sorted(agents))
        for agent, found in states.items():
            if found.condition not in AT_REST and self._said.get(agent) != found.says:
                self._said[agent] = found.says
                self._say(f"{agent}: {found.says or 'draining'}")
        return {agent for agent, found in states.items() if self._has_left(agent, found)}

    def _has_left(self, agent: str, found: State) -> bool:
        """Whether an agent is at rest for good: one that was started to account for a task may not have begun yet."""
        if found.condition is not Condition.GONE or agent not in self._started_at:
            return found.condition in AT_REST
        is_late = time.monotonic() > self._started_at[agent] + BEGIN_SECONDS
        return is_late or not has_unfinished(self._state_dir, self._host, agent)


def has_unfinished(state_dir: Path, host: str, agent: str) -> bool:
    """Whether a run of this agent waits to be accounted for (docs/architecture.md, "The run directory")."""
    return bool(unfinished(state_dir, host, agent))


def unfinished(state_dir: Path, host: str, agent: str) -> tuple[str, ...]:
    """The ids of the tasks whose runs wait to be accounted for."""
    worker = f"{host}:{agent}"
    runs = state_dir.parent.glob(f"{state_dir.name}*/runs")  # an agent with another user has another directory
    claims = (claim for folder in runs for claim in folder.glob("*/claim.json"))
    return tuple(sorted({claim.parent.name.rpartition(".")[0] for claim in claims if _owner(claim) == worker}))


def _owner(claim: Path) -> str:
    """The worker id of the agent that sees a run through; the task itself may run as a worker below it."""
    found = read_json(claim) or {}
    return str(found.get("agent") or found.get("worker") or "")
