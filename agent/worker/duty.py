"""What becomes of an agent after it has begun: who reports for it and who works, once there is somebody.

The parts are made late (the server has to answer first) and asked for early (`status` answers while it does not), so
there is one place where they are put when they exist.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.worker.crew import Crew
    from agent.worker.presence import Presence


@dataclass(slots=True, kw_only=True)
class Duty:
    """`begun_at` is when this configuration came into force, `ready_at` when the agent was registered with it (epoch
    seconds; None: not yet).
    """

    begun_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    presence: Presence | None = None
    crew: Crew | None = None

    def begins(self, crew: Crew, presence: Presence) -> None:
        """The agent is registered, and takes tasks from now on."""
        self.ready_at, self.crew, self.presence = time.time(), crew, presence
