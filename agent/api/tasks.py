"""Calls of the `tasks` service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.api.client import Call, plain
from agent.errors import BadTask
from agent.models import Json, Task
from agent.states import TaskStatus
from agent.wire import mapping, mappings, text, whole

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StatusLook:
    """What one look at a task's status showed; `message` is where the server writes "stopping", `started` tells one
    start of the task from another.
    """

    status: TaskStatus
    message: str
    started: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The status of a task, and the queue that it was put into last (empty: none)."""

    status: TaskStatus
    queue: str


def get_by_id(task_id: str) -> Call[Task]:
    """The whole task; ApiError 400/101 if there is none, BadTask if it is none that could be run."""

    def parse(data: Json) -> Task:
        task = Task.from_wire(data.get("task"))
        if task.id != task_id:
            raise BadTask("id", "that of another task", f"{task_id!r}, which was asked for")
        return task

    return _get(task_id, parse)


def place_of(task_id: str) -> Call[Place]:
    """Where a task stands, whatever else is wrong with it."""

    def parse(data: Json) -> Place:
        task = mapping(data.get("task"))
        return Place(TaskStatus(text(task.get("status"))), text(mapping(task.get("execution")).get("queue")))

    return _get(task_id, parse)


def runtime_of(task_id: str) -> Call[Mapping[str, Any]]:
    """The section `runtime` of a task, whatever else is wrong with it."""
    return _get(task_id, lambda data: mapping(mapping(data.get("task")).get("runtime")))


def _get(task_id: str, parse: Callable[[Json], T]) -> Call[T]:
    return Call(endpoint="tasks.get_by_id", body={"task": task_id}, parse=parse)


def find_by_name(name: str) -> Call[list[Json]]:
    """Id and name of the tasks whose name equals `name`, in any letter case."""

    def same_name(data: Json) -> list[Json]:
        return [dict(task) for task in mappings(data.get("tasks")) if text(task.get("name")).lower() == name.lower()]

    pattern = "(?i)^" + "".join(f"\\{char}" if char in r"\.^$*+?{}[]|()-" else char for char in name) + "$"
    body = {"name": pattern, "only_fields": ["id", "name"], "search_hidden": True}
    return Call(endpoint="tasks.get_all", body=body, parse=same_name)


def look(task_id: str) -> Call[StatusLook | None]:
    """Status and message of a task, None if it is gone."""

    def parse(data: Json) -> StatusLook | None:
        return _looks(data).get(task_id)

    return Call(endpoint="tasks.get_all", body=_look_at([task_id]), parse=parse)


def look_at(
    task_ids: Sequence[str], *, known: Mapping[str, StatusLook] | None = None, hold_seconds: float = 0.0
) -> Call[dict[str, StatusLook]]:
    """Status and message of several tasks, by id, without those that are gone.

    With `hold_seconds` (only for a server with the feature `tasks.status_wait`) the answer is kept back until one of
    them differs from `known`.
    """
    body = _look_at(task_ids)
    if hold_seconds and known:
        body |= {
            "wait": hold_seconds,
            "known": {task: [seen.status.value, seen.message] for task, seen in known.items()},
        }
    return Call(endpoint="tasks.get_all", body=body, parse=_looks, hold_seconds=hold_seconds)


def _look_at(task_ids: Sequence[str]) -> Json:
    return {"id": list(task_ids), "only_fields": ["id", "status", "status_message", "started"], "search_hidden": True}


def _looks(data: Json) -> dict[str, StatusLook]:
    return {
        text(task.get("id")): StatusLook(
            TaskStatus(text(task.get("status"))), text(task.get("status_message")), text(task.get("started"))
        )
        for task in mappings(data.get("tasks"))
    }


def started(task_id: str, *, reason: str, message: str, claim: str = "") -> Call[str]:
    """queued, created or stopped → in_progress; 400/110 where the state machine forbids it. The reply is the time of
    the start, empty where the server does not tell.

    With `claim` (`tasks.started.claim`) only if the pop of that claim is the last that was said of the task.
    """
    call = _transition("tasks.started", task_id, reason, message, force=False, **({"claim": claim} if claim else {}))
    return Call(
        endpoint=call.endpoint,
        body=call.body,
        parse=lambda data: str((data.get("fields") or {}).get("started") or ""),
    )


def completed(task_id: str, *, reason: str, message: str, force: bool = False) -> Call[Json]:
    return _transition("tasks.completed", task_id, reason, message, force)


def stopped(task_id: str, *, reason: str, message: str, force: bool = False) -> Call[Json]:
    return _transition("tasks.stopped", task_id, reason, message, force)


def failed(task_id: str, *, reason: str, message: str, force: bool = False) -> Call[Json]:
    return _transition("tasks.failed", task_id, reason, message, force)


def _transition(endpoint: str, task_id: str, reason: str, message: str, force: bool, **more: str) -> Call[Json]:
    body = {"task": task_id, "status_reason": reason, "status_message": message, "force": force, **more}
    return plain(endpoint, body)


def ping(task_id: str) -> Call[Json]:
    return plain("tasks.ping", {"task": task_id})


def edit(task_id: str, fields: Json) -> Call[Json]:
    """Change fields of a task in any state; `script` is merged one level deep, `runtime` is replaced."""
    return plain("tasks.edit", {"task": task_id, "force": True, **fields})


def set_requirements(task_id: str, requirements: Json) -> Call[Json]:
    """Replace `script.requirements` as a whole."""
    return plain("tasks.set_requirements", {"task": task_id, "requirements": requirements})


def enqueue(task_id: str, queue: str, *, reason: str, force: bool = False) -> Call[Json]:
    return plain("tasks.enqueue", {"task": task_id, "queue": queue, "status_reason": reason, "force": force})


def dequeue(task_id: str, *, new_status: TaskStatus) -> Call[int]:
    """Take a task out of its queue; the reply's `updated` is 1 if it was queued (or already in progress)."""
    body = {"task": task_id, "new_status": new_status.value}
    return Call(endpoint="tasks.dequeue", body=body, parse=lambda data: whole(data.get("updated")) or 0)


def clone(task_id: str, *, name: str) -> Call[str]:
    """A draft copy; returns its id. Not to be repeated blindly: each repeat makes one more."""
    return Call(
        endpoint="tasks.clone", body={"task": task_id, "new_task_name": name}, parse=lambda data: str(data["id"])
    )
