"""Calls of the `queues` service, with the extensions of our own server where it announces them.

`queues.get_next_task` with `task` pops only that very task (ClearML Server 2.21 and later), so the name of a task can
be written down before it is taken. On our own server (`agent.api.server.Features`) one request can wait for several
queues, look without popping, and repeat a pop without harm by carrying the same `claim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.api.client import Call, plain
from agent.models import Json


@dataclass(frozen=True, slots=True)
class Queue:
    """Id and name of a queue; `tags` may hold `force_workers:on` or `:off`."""

    id: str
    name: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that stands in a queue and has not been popped."""

    task: str
    queue: str


def _queues(data: Json) -> list[Queue]:
    return [Queue(str(q["id"]), str(q.get("name", "")), tuple(q.get("tags") or ())) for q in data.get("queues", [])]


def by_ids(ids: Sequence[str]) -> Call[list[Queue]]:
    body = {"id": list(ids), "only_fields": ["id", "name", "tags"], "search_hidden": True}
    return Call(endpoint="queues.get_all", body=body, parse=_queues)


def every() -> Call[list[Queue]]:
    """All queues (the first 500), for resolving names and for suggestions."""
    body = {"only_fields": ["id", "name", "tags"], "search_hidden": True}
    return Call(endpoint="queues.get_all", body=body, parse=_queues)


def default() -> Call[str]:
    """The id of the server's default queue; ApiError 400/707 if it has none."""
    return Call(endpoint="queues.get_default", parse=lambda data: str(data["id"]))


def create(name: str) -> Call[str]:
    return Call(endpoint="queues.create", body={"name": name}, parse=lambda data: str(data["id"]))


def peek(queue: str) -> Call[Waiting | None]:
    """The first task of one queue, left where it is."""

    def parse(data: Json) -> Waiting | None:
        task = data.get("task")
        return Waiting(str(task), queue) if task else None

    return Call(endpoint="queues.peek_task", body={"queue": queue}, parse=parse)


def wait_for_next(queues: Sequence[str], *, hold_seconds: float) -> Call[Waiting | None]:
    """The next task of several queues in order of preference, not popped, reserved for us for a moment.

    Only for a server with the feature `get_next_task.wait`.
    """

    def parse(data: Json) -> Waiting | None:
        entry = data.get("entry")
        return Waiting(str(entry["task"]), str(data.get("queue") or queues[0])) if entry else None

    body = {"queues": list(queues), "wait": hold_seconds, "peek": True}
    return Call(endpoint="queues.get_next_task", body=body, parse=parse, hold_seconds=hold_seconds)


def pop(waiting: Waiting, *, claim: str = "") -> Call[bool]:
    """Take exactly this task; False if somebody else has it. With `claim` (`get_next_task.claim`) repeatable."""
    body = {"queue": waiting.queue, "task": waiting.task}
    if claim:
        body["claim"] = claim
    return Call(endpoint="queues.get_next_task", body=body, parse=lambda data: bool(data.get("entry")))


def pop_any(queue: str) -> Call[Waiting | None]:
    """Take whatever is first, for servers that cannot pop by name. Never to be repeated after a lost reply."""

    def parse(data: Json) -> Waiting | None:
        entry = data.get("entry")
        return Waiting(str(entry["task"]), queue) if entry else None

    return Call(endpoint="queues.get_next_task", body={"queue": queue}, parse=parse)


def entries(queue: str) -> Call[list[str]]:
    """The ids of the tasks in a queue, in order; ApiError 400/701 if the queue is gone."""

    def parse(data: Json) -> list[str]:
        return [str(entry["task"]) for entry in data["queue"].get("entries") or []]

    return Call(endpoint="queues.get_by_id", body={"queue": queue}, parse=parse)


def move_to_front(queue: str, task: str) -> Call[Json]:
    return plain("queues.move_task_to_front", {"queue": queue, "task": task})
