"""Calls of the `workers` service. A worker that has not reported for 600 s vanishes from the server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.api.client import Call, plain
from agent.models import Json
from agent.wire import mappings, number, text

#: Keys of runtime properties: opens or closes a worker, limits its tasks, and names the GPUs that it could give.
FORCE = "force"
MAX_INSTANCES = "max_num_instances"
AVAILABLE_GPUS = "available_gpus"
#: Ten years; what holds longer holds until it is changed.
LONGEST_EXPIRY_SECONDS = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Property:
    """The value of a runtime property, and for how many seconds more it holds (None: until it is changed)."""

    value: str
    seconds_left: float | None = None


def properties_in(data: Mapping[str, Any]) -> dict[str, Property]:
    """The runtime properties of a reply, by key."""
    return {
        text(entry.get("key")): Property(text(entry.get("value")), _seconds_in(entry.get("expiry")))
        for entry in mappings(data.get("properties") or data.get("runtime_properties"))
    }


def _seconds_in(expiry: object) -> float | None:
    seconds = number(expiry)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_EXPIRY_SECONDS)


def runtime_properties(worker: str) -> Call[dict[str, Property]]:
    """The properties in force; ApiError 404 on a server that has none (ClearML's open-source one)."""
    return Call(endpoint="workers.get_runtime_properties", body={"worker": worker}, parse=properties_in)


def set_runtime_properties(worker: str, values: Mapping[str, str], *, gone: Sequence[str] = ()) -> Call[Json]:
    """Set properties until they are changed, and delete those that are `gone`."""
    listed: list[Json] = [{"key": key, "value": value} for key, value in values.items()]
    listed += [{"key": key, "value": "", "expiry": 0} for key in gone]
    return plain("workers.set_runtime_properties", {"worker": worker, "runtime_properties": listed})


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
