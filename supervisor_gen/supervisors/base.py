"""What a supervisor promises: the thin effects of `apply`. Everything that can be decided beforehand is in `steps.py`.

Agents are called by their plain names ("gpu0"); how the supervisor calls them is its own business. Methods raise
AgentError when the supervisor itself cannot be talked to; an agent that does not come up is a state, not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Condition(StrEnum):
    """How an agent is, as far as `apply` has to tell."""

    GONE = "gone"  # not running, and nobody is about to start it
    FAILED = "failed"  # the same, after an end that was a failure
    STARTING = "starting"  # running and not ready, or about to be started again
    RUNNING = "running"  # registered on its server
    MASKED = "masked"  # an operator does not want it to run


#: Nothing of the agent runs, and nobody is about to start it.
AT_REST = frozenset({Condition.GONE, Condition.FAILED, Condition.MASKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One agent as its supervisor sees it. `says` is what the agent says of itself, or how it ended."""

    condition: Condition
    says: str = ""


class Supervisor(Protocol):
    """One way to supervise agents on this host."""

    def states(self, agents: Sequence[str]) -> Mapping[str, State]:
        """How these agents are. One that the supervisor does not know is GONE."""
        ...

    def prepare(self) -> None:
        """What has to be true of this host before any agent starts."""
        ...

    def reload(self, agents: Sequence[str]) -> None:
        """Make the supervisor see the files of these agents as they are now, changing no running one."""
        ...

    def start(self, agents: Sequence[str]) -> None:
        """Start agents that do not run. Returns at once."""
        ...

    def restart(self, agents: Sequence[str]) -> None:
        """Restart agents, leaving their tasks alone. Returns at once."""
        ...

    def drain(self, agents: Sequence[str]) -> None:
        """Let agents finish their tasks and leave. Returns at once; a second request changes nothing."""
        ...

    def forget(self, agents: Sequence[str]) -> None:
        """What there is to do after the files of these agents, which do not run, are gone."""
        ...
