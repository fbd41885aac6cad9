"""Calls of the `queues` service, with the extensions of our own server where it announces them.

`queues.get_next_task` with `task` pops only that very task (ClearML Server 2.21 and later), so the name of a task can
be written down before it is taken. On our own server (`agent.api.server.Features`) one request can wait for several
queues, look without popping, repeat a pop without harm by carrying the same `claim`, and tell what was said about the
worker and its queues as soon as it is said (`watch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.api.client import Call, plain
from agent.api.workers import Property, properties_in
from agent.models import Json
from agent.wire import mapping, mappings, shown, text, texts


@dataclass(frozen=True, slots=True)
class Queue:
    """Id and name of a queue; `tags` may hold `force_workers:on` or `:off`. `is_gone`: it has been deleted."""

    id: str
    name: str
    tags: tuple[str, ...] = ()
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that stands in a queue and has not been popped."""

    task: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """What has been said about a worker and its queues from outside; `mark` names this state of it, on our server."""

    queues: tuple[Queue, ...]
    properties: Mapping[str, Property] = field(default_factory=dict)
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Whose steering to tell of, together with the next task, when it is no longer the one of mark `known`."""

    worker: str
    queues: tuple[str, ...]
    known: str = ""


def _queues(data: Mapping[str, Any]) -> list[Queue]:
    return [
        Queue(text(q["id"]), shown(text(q.get("name"))), texts(q.get("tags")), bool(q.get("gone")))
        for q in mappings(data.get("queues"))
        if text(q.get("id"))
    ]


def _steering(data: Mapping[str, Any]) -> Steering:
    return Steering(queues=tuple(_queues(data)), properties=properties_in(data), mark=str(data.get("mark") or ""))


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
        task = text(data.get("task"))
        return Waiting(task, queue) if task else None

    return Call(endpoint="queues.peek_task", body={"queue": queue}, parse=parse)


def wait_for_next(
    queues: Sequence[str], *, hold_seconds: float, watch: Watch | None = None
) -> Call[tuple[Waiting | None, Steering | None]]:
    """The next task of several queues in order of preference, not popped, reserved for us for a moment.

    Only for a server with the feature `get_next_task.wait`. With `watch` (`get_next_task.watch`) the reply tells the
    steering, too, and comes at once, without a task, when it has changed; then `queues` may be empty.
    """

    def parse(data: Json) -> tuple[Waiting | None, Steering | None]:
        task, steering = text(mapping(data.get("entry")).get("task")), data.get("steering")
        waiting = Waiting(task, text(data.get("queue")) or queues[0]) if task else None
        return waiting, _steering(mapping(steering)) if steering else None

    body: Json = {"queues": list(queues), "wait": hold_seconds, "peek": True}
    if watch is not None:
        body["watch"] = {"worker": watch.worker, "queues": list(watch.queues), "known": watch.known}
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
        return [text(entry.get("task")) for entry in mappings(data["queue"].get("entries"))]

    return Call(endpoint="queues.get_by_id", body={"queue": queue}, parse=parse)


def move_to_front(queue: str, task: str) -> Call[Json]:
    return plain("queues.move_task_to_front", {"queue": queue, "task": task})
