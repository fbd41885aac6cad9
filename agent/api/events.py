"""Calls of the `events` service: console lines and scalars, sent as JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.api.client import Call
from agent.models import Json
from agent.wire import mappings, whole


def add_batch(events: Sequence[Json]) -> Call[int]:
    """Store events; returns how many were accepted."""
    return Call(endpoint="events.add_batch", body=list(events), parse=lambda data: whole(data.get("added")) or 0)


def log_event(task: str, worker: str, *, level: str, message: str, timestamp_ms: int, event_id: str = "") -> Json:
    event = {
        "type": "log",
        "task": task,
        "worker": worker,
        "level": level,
        "msg": message,
        "timestamp": timestamp_ms,
    }
    if event_id:
        event["event_id"] = event_id
    return event


def scalar_event(
    task: str, worker: str, *, metric: str, variant: str, iteration: int, value: float, at_ms: int
) -> Json:
    return {
        "type": "training_stats_scalar",
        "task": task,
        "worker": worker,
        "metric": metric,
        "variant": variant,
        "iter": iteration,
        "value": value,
        "timestamp": at_ms,
    }


def log_after(task: str, timestamp_ms: int, *, batch_size: int = 500) -> Call[list[Mapping[str, Any]]]:
    """Console events strictly after a time, oldest first: the way to see whether a lost batch had arrived."""
    body = {
        "task": task,
        "from_timestamp": timestamp_ms,
        "navigate_earlier": False,
        "order": "asc",
        "batch_size": batch_size,
    }
    return Call(endpoint="events.get_task_log", body=body, parse=lambda data: mappings(data.get("events")))
