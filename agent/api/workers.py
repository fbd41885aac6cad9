"""Calls of the `workers` service. A worker that has not reported for 600 s vanishes from the server."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent.api.client import Call, plain
from agent.models import Json


def register(worker: str, *, queues: Sequence[str], tags: Sequence[str] = ()) -> Call[Json]:
    return plain("workers.register", {"worker": worker, "queues": list(queues), "tags": list(tags)})


def unregister(worker: str) -> Call[Json]:
    return plain("workers.unregister", {"worker": worker})


def status_report(
    worker: str,
    *,
    queues: Sequence[str],
    task: str | None = None,
    queue: str | None = None,
    tags: Sequence[str] = (),
    machine_stats: Json | None = None,
) -> Call[Json]:
    """Say that the worker lives and what it runs. The timestamp is in milliseconds, as the server stores it."""
    body: Json = {
        "worker": worker,
        "timestamp": int(time.time() * 1000),
        "queues": list(queues),
        "tags": list(tags),
        "is_daemon": True,
        "machine_stats": machine_stats,
    }
    if task:
        body["task"] = task
    if queue:
        body["queue"] = queue
    return plain("workers.status_report", body)
