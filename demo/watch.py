"""Following tasks on the server: their consoles line by line while they run, and how each of them ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from demo.api import Api, console_events

#: A task in one of these states will not change any more by itself.
FINAL = frozenset({"completed", "failed", "stopped", "closed", "published"})


class TooSlow(Exception):
    """The tasks did not end in time."""


@dataclass(slots=True, kw_only=True)
class ConsoleTail:
    """The lines of one task's console that nobody has seen yet.

    The server has no cursor over a console, only "younger than"; events that share the time of the last one seen are
    fetched again and skipped by their number.
    """

    task: str
    _last: int = 0
    _seen_at_last: int = 0

    def read(self, api: Api) -> Iterator[tuple[str, str]]:
        """Pairs of level and line."""
        events = console_events(api, self.task, after=max(0, self._last - 1))
        again = [event for event in events if int(event["timestamp"]) == self._last]
        fresh = [event for event in events if int(event["timestamp"]) > self._last]
        for event in again[self._seen_at_last :] + fresh:
            for line in event["msg"].splitlines():
                yield event.get("level", "").lower(), line
        if fresh:
            self._last = int(fresh[-1]["timestamp"])
            self._seen_at_last = sum(int(event["timestamp"]) == self._last for event in fresh)
        else:
            self._seen_at_last = max(self._seen_at_last, len(again))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A task that has ended, as the server describes it."""

    id: str
    status: str
    reason: str
    worker: str
    ended: float
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, task: dict[str, Any]) -> Ended:
        return cls(
            id=task["id"],
            status=task["status"],
            reason=task.get("status_reason") or "",
            worker=task.get("last_worker") or "",
            ended=epoch(task.get("completed") or task["status_changed"]),
            raw=task,
        )


def epoch(text: str) -> float:
    """The server's ISO time as seconds since 1970."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def follow(
    api: Api, tasks: Sequence[str], show: Callable[[str, str, str], None], *, seconds: float
) -> dict[str, Ended]:
    """Show every console line (task, level, line) as it arrives, until each task has ended."""
    tails = {task: ConsoleTail(task=task) for task in tasks}
    deadline = time.monotonic() + seconds
    ended: dict[str, Ended] = {}
    while len(ended) < len(tasks):
        if time.monotonic() > deadline:
            raise TooSlow(f"{len(tasks) - len(ended)} of {len(tasks)} tasks have not ended within {seconds:.0f} s")
        open_tasks = [task for task in tasks if task not in ended]
        for task in api("tasks.get_all", id=open_tasks)["tasks"]:
            # The state is read before the console, so a final state means that this reading is the last one needed.
            for level, line in tails[task["id"]].read(api):
                show(task["id"], level, line)
            if task["status"] in FINAL:
                ended[task["id"]] = Ended.from_wire(task)
        time.sleep(0.1)
    return ended
