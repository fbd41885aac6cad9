"""Whether a worker takes tasks at the moment, and if not, why: what the server is told of it, as tags of the worker.

Tags are the one thing that every ClearML server stores with a worker and shows, so a fleet of any server can be read
from them:

    draining                      it finishes its task and takes no other
    closed [until TIME]           out of its working hours
    forced on [until TIME]        the runtime property `force` opens it, whatever its hours say
    forced off [until TIME]       the runtime property `force` closes it
    waiting: WHY                  it would take a task, and something of its host is missing (memory of its GPU, a GPU)
    paused[: WHY]                 an operator has paused it
    cordoned: WHY                 something of its host is broken

TIME is ISO 8601 with the offset of the worker's time zone. A worker without such a tag takes whatever comes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """The first words of the tag (OPEN has none), the gravest last: where several hold, the last one is told."""

    OPEN = "open"
    FORCED_ON = "forced on"
    CLOSED = "closed"
    FORCED_OFF = "forced off"
    WAITING = "waiting"
    PAUSED = "paused"
    CORDONED = "cordoned"
    DRAINING = "draining"


_WORDS = "|".join(standing.value for standing in Standing if standing is not Standing.OPEN)
_TAG = re.compile(rf"(?P<standing>{_WORDS})(?: until (?P<until>\S+)|: (?P<why>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A standing with what goes with it: when it ends (ISO 8601), or why it is so; empty where there is neither."""

    standing: Standing = Standing.OPEN
    until: str = ""
    why: str = ""

    @property
    def tag(self) -> str:
        """The tag that says it; empty for OPEN."""
        if self.standing is Standing.OPEN:
            return ""
        why = " ".join(self.why.split())  # a driver's message may have several lines
        tail = f" until {self.until}" if self.until else f": {why}" if why else ""
        return f"{self.standing.value}{tail}"


def stand_in(tags: Iterable[str]) -> Stand:
    """What the tags of a worker say; OPEN where none of them speaks of it."""
    found = [
        Stand(standing=Standing(match["standing"]), until=match["until"] or "", why=match["why"] or "")
        for tag in tags
        if (match := _TAG.fullmatch(tag))
    ]
    order = list(Standing)
    return max(found, key=lambda stand: order.index(stand.standing), default=Stand())
