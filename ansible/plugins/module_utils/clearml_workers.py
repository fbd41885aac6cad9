# Copyright: (c) 2026, gpufleet developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a ClearML server says about workers: its reply, and the words in ids and tags, which are those of the agents."""

from __future__ import annotations

import re

from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import Server, natural

#: The words of a tag that tells how a worker stands, the gravest last: where several are there, the last one counts.
STANDINGS = ("open", "forced on", "closed", "forced off", "waiting", "paused", "cordoned", "draining")
TAKING = ("open", "forced on")
CLOSED = ("closed", "forced off", "paused", "cordoned", "draining")
VERSION_TAG = "gpufleet "
DUPLICATE_ID = "duplicate-id"

_STANDING_TAG = re.compile(rf"(?P<standing>{'|'.join(STANDINGS[1:])})(?: until (?P<until>\S+)|: (?P<why>.+))?")
_GPUS = re.compile(r":(?P<shared>d?)gpu(?P<names>[^:]+)(?::\d+)?$")
_SERVICE = ":service:"
_ALL_GPUS = "all"


def all_workers(server: Server, *, repeat: bool = True) -> list:
    """Every worker on the server's list, as `workers_in` describes them; `repeat`: ask again if the server fails."""
    ask = server.read if repeat else server.call
    return workers_in(ask("workers.get_all", last_seen=0))


def workers_in(reply: dict) -> list:
    """The workers of a reply of `workers.get_all`, gpu2 before gpu10."""
    wires = sorted(reply.get("workers") or (), key=lambda wire: natural(wire["id"]))
    parents = parents_of([wire["id"] for wire in wires])
    workers = [worker_in(wire, parents[wire["id"]]) for wire in wires]
    busy = {worker["id"] for worker in workers if worker["task"]}
    busy |= {parents[worker_id] for worker_id in busy}
    for worker in workers:
        worker["runs"] = worker["id"] in busy
        worker["state"] = _state(worker)
    return workers


def worker_in(wire: dict, parent: str = "") -> dict:
    """One worker, without what only its neighbours tell (`runs`, `state`)."""
    tags = sorted(wire.get("tags") or ())
    return {
        "id": wire["id"],
        "host": wire["id"].partition(":")[0],
        "parent": parent or None,
        "ip": wire.get("ip"),
        **standing_in(tags),
        "task": _task_in(wire.get("task") or {}),
        "queues": [queue.get("name") or queue["id"] for queue in wire.get("queues") or ()],
        "tags": tags,
        "system_tags": sorted(wire.get("system_tags") or ()),
        "is_duplicate": DUPLICATE_ID in (wire.get("system_tags") or ()),
        "version": next((tag[len(VERSION_TAG) :] for tag in tags if tag.startswith(VERSION_TAG)), None),
        "gpus": gpus_in(wire["id"], wire.get("machine_stats") or {}),
        "registered": wire.get("register_time"),
        "reported": wire.get("last_report_time") or wire.get("last_activity_time"),
    }


def standing_in(tags) -> dict:
    """How a worker stands, until when and why, as its tags tell."""
    found = [match for match in map(_STANDING_TAG.fullmatch, tags) if match]
    if not found:
        return {"standing": "open", "until": None, "why": None}
    return max(found, key=lambda match: STANDINGS.index(match["standing"])).groupdict()


def gpus_in(worker_id: str, stats: dict) -> dict | None:
    """The GPUs of a worker: `names` from its id, readings (percent, MiB) where the server tells them; None: no GPUs."""
    names = gpu_names(worker_id)
    used, free, usage = (_numbers(stats.get(f"gpu_{key}")) for key in ("memory_used", "memory_free", "usage"))
    read = max(len(usage), len(used))
    if not read and not names:
        return None
    return {
        "names": names,
        "count": read or (None if _ALL_GPUS in names else len(names)),
        "usage_percent": round(sum(usage) / len(usage), 1) if usage else None,
        "memory_used_mib": round(sum(used), 3) if used else None,
        "memory_total_mib": round(sum(used) + sum(free), 3) if used and len(used) == len(free) else None,
    }


def gpu_names(worker_id: str) -> list:
    """The GPUs that the end of an id names."""
    found = _GPUS.search(worker_id)
    return [name for name in found["names"].split(",") if name] if found else []


def parents_of(ids) -> dict:
    """The agent of each sub-worker, as far as it is among the ids; the others have the empty text.

    host:0:service:<task>     a task of the services agent host:0
    host:gpu0,1               a task of the agent host:dgpu0,1,2,3, which shares its GPUs out
    """
    known, sharing = set(ids), {}
    for worker_id in ids:
        found = _GPUS.search(worker_id)
        if found and found["shared"]:
            sharing.setdefault(worker_id[: found.start()], []).append(worker_id)
    return {worker_id: _parent(worker_id, known, sharing) for worker_id in ids}


def _parent(worker_id: str, known: set, sharing: dict) -> str:
    parent, service, _task = worker_id.partition(_SERVICE)
    if service:
        return parent if parent in known else ""
    found = _GPUS.search(worker_id)
    if not found or found["shared"]:
        return ""
    names = gpu_names(worker_id)
    return next((agent for agent in sharing.get(worker_id[: found.start()], ()) if _gives(agent, names)), "")


def _gives(agent: str, names) -> bool:
    """Whether these are all among the agent's GPUs, or instances of them (`0.1` of `0`)."""
    shared = gpu_names(agent)
    return _ALL_GPUS in shared or all(name in shared or name.partition(".")[0] in shared for name in names)


def crew_of(worker_id: str, workers) -> list:
    """The worker and its sub-workers, as far as they are there; sub-workers may outlive their agent for a while."""
    parents = parents_of([worker_id, *(worker["id"] for worker in workers)])
    return [worker for worker in workers if worker_id in (worker["id"], parents[worker["id"]])]


def _task_in(wire: dict) -> dict | None:
    if not wire.get("id"):
        return None
    milliseconds = wire.get("running_time")
    seconds = milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None
    return {"id": wire["id"], "name": wire.get("name") or "", "seconds": seconds}


def _state(worker: dict) -> str:
    if worker["standing"] == "open":
        return "running" if worker["runs"] else "idle"
    return f"running, {worker['standing']}" if worker["runs"] else worker["standing"]


def _numbers(values) -> list:
    listed = values if isinstance(values, list) else [values]
    return [float(value) for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
