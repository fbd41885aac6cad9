"""What a server's reply tells of a fleet, as values; `fleet_tables.py` shows them to people.

Everything is read from what every ClearML server gives: the state from the tags of a worker (`agent.worker.standing`),
its GPUs from its id where the reply has no readings of them (only our server has), and which agent a sub-worker belongs
to from their ids:

    host:0                        a services agent
    host:0:service:<task>         a task of it
    host:dgpu0,1,2,3              an agent that shares GPUs out
    host:gpu0,1                   a task of it that has two of them
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.models import Json
from agent.wire import mapping, mappings, number, text, texts
from agent.worker.standing import Stand, Standing, stand_in

#: More tasks of a queue to which nobody listens are not counted; the server would have to send all of them.
MOST_ENTRIES = 100
#: What `queues_in` wants to know of all queues, as the body of `queues.get_all`.
QUEUES_WANTED: Mapping[str, Any] = {
    "only_fields": ["id", "name", "tags", "entries.task"],
    "max_task_entries": MOST_ENTRIES,
    "search_hidden": True,
}

DUPLICATE_ID = "duplicate-id"
_SERVICE = ":service:"
_GPUS = re.compile(r":(?P<shared>d?)gpu(?P<names>[^:]+)(?::\d+)?$")
_ALL_GPUS = "all"
_TAKES = (Standing.OPEN, Standing.FORCED_ON)
_NAME_LENGTH = 40
_MOST_LISTENERS = 3
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The GPUs of a worker. `names` are those in its id; the readings are None where the server does not tell them."""

    names: tuple[str, ...] = ()
    count: int | None = None
    usage_percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None

    def to_json(self) -> Json:
        return {"names": list(self.names), **{name: getattr(self, name) for name in self.__slots__ if name != "names"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOfWorker:
    """A queue as the reply shows it with a worker; `waiting` is None where the queue is not there any more."""

    id: str
    name: str
    waiting: int | None = None
    next_task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker, and what was said of it word by word (`wire`). `runs`: it or one of its sub-workers has a task;
    `parent` is the id of the agent whose sub-worker it is, or empty.
    """

    id: str
    parent: str = ""
    runs: bool = False
    stand: Stand = field(default_factory=Stand)
    task: str = ""
    task_name: str = ""
    task_seconds: float | None = None
    queues: tuple[QueueOfWorker, ...] = ()
    gpus: Gpus | None = None
    reported: datetime | None = None
    is_duplicate: bool = False
    wire: Json = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One word or two, without until when or why: `idle`, `running`, `closed`, `running, draining`."""
        return state_as(self, self.stand.standing.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue and who listens to it. `is_more`: more tasks wait than `waiting`; None: not known."""

    name: str
    waiting: int | None = None
    is_more: bool = False
    listeners: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    next_task: str = ""


def state_as(worker: Worker, standing: str) -> str:
    """Whether it runs something, and how it stands if that is worth saying; `standing` are the words for the latter."""
    if worker.stand.standing is Standing.OPEN:
        return "running" if worker.runs else "idle"
    return f"running, {standing}" if worker.runs else standing


# --- from the reply


def workers_in(reply: Json) -> tuple[Worker, ...]:
    """The workers by id, gpu2 before gpu10, sub-workers right after their agent."""
    wires = [dict(wire) for wire in mappings(reply.get("workers"))]
    parents = _parents([_id(wire) for wire in wires])
    busy = {_id(wire) for wire in wires if _task(wire)}
    busy |= {parents[worker_id] for worker_id in busy}
    workers = [_worker(wire, parent=parents[_id(wire)], runs=_id(wire) in busy) for wire in wires]
    return tuple(sorted(workers, key=_place))


def with_states(reply: Json) -> Json:
    """The reply in order, every worker with `state`, `state_until`, `state_why` and `gpus` besides what it had."""
    told = [
        {
            **worker.wire,
            "state": worker.state,
            "state_until": worker.stand.until or None,
            "state_why": worker.stand.why or None,
            "gpus": worker.gpus.to_json() if worker.gpus else None,
        }
        for worker in workers_in(reply)
    ]
    return {**reply, "workers": told}


def queues_in(workers: Iterable[Worker], answer: Json) -> tuple[Queue, ...]:
    """All queues by name: those of a reply to QUEUES_WANTED, and those that only the workers know."""
    wires = {text(wire.get("id")): dict(wire) for wire in mappings(answer.get("queues"))}
    seen: dict[str, QueueOfWorker] = {}
    listeners: dict[str, list[str]] = {}
    for worker in workers:
        for queue in worker.queues:
            seen[queue.id] = queue
            listeners.setdefault(queue.id, []).append(_listener(worker))
    found = [_queue(wires.get(queue), seen.get(queue), listeners.get(queue, ())) for queue in {**wires, **seen}]
    return tuple(sorted(found, key=lambda queue: _natural(queue.name)))


def gpus_of(worker_id: str, stats: Mapping[str, Any]) -> Gpus | None:
    """From the readings (percent and MiB, one per GPU) and the end of the id; None if neither speaks of GPUs."""
    names = _gpu_names(worker_id)
    used, free = _numbers(stats.get("gpu_memory_used")), _numbers(stats.get("gpu_memory_free"))
    usage = _numbers(stats.get("gpu_usage"))
    read = max(len(usage), len(used))
    if not read and not names:
        return None
    return Gpus(
        names=names,
        count=read or (None if _ALL_GPUS in names else len(names)),
        usage_percent=round(sum(usage) / len(usage), 1) if usage else None,
        memory_used_mib=round(sum(used), 3) if used else None,
        memory_total_mib=round(sum(used) + sum(free), 3) if used and len(used) == len(free) else None,
    )


def _worker(wire: Json, *, parent: str, runs: bool) -> Worker:
    task = _task(wire)
    milliseconds = number(task.get("running_time"))
    return Worker(
        id=_id(wire),
        parent=parent,
        runs=runs,
        stand=stand_in(texts(wire.get("tags"))),
        task=str(task.get("id") or ""),
        task_name=str(task.get("name") or ""),
        task_seconds=None if milliseconds is None else milliseconds / 1000,
        queues=tuple(_queue_of_worker(queue) for queue in mappings(wire.get("queues"))),
        gpus=gpus_of(_id(wire), mapping(wire.get("machine_stats"))),
        reported=moment_in(wire.get("last_report_time") or wire.get("last_activity_time")),
        is_duplicate=DUPLICATE_ID in texts(wire.get("system_tags")),
        wire=wire,
    )


def _queue_of_worker(wire: Mapping[str, Any]) -> QueueOfWorker:
    waiting, following = wire.get("num_tasks"), mapping(wire.get("next_task"))
    return QueueOfWorker(
        id=str(wire.get("id") or ""),
        name=str(wire.get("name") or wire.get("id") or ""),
        waiting=waiting if isinstance(waiting, int) else None,
        next_task=" ".join(str(following[key]) for key in ("id", "name") if following.get(key)),
    )


def _queue(wire: Json | None, seen: QueueOfWorker | None, listeners: Sequence[str]) -> Queue:
    wire = wire or {}
    entries = mappings(wire.get("entries"))
    is_counted = seen is not None and seen.waiting is not None
    return Queue(
        name=str(wire.get("name") or (seen.name if seen else wire.get("id") or "")),
        waiting=seen.waiting if seen and is_counted else len(entries) if "entries" in wire else None,
        is_more=not is_counted and len(entries) >= MOST_ENTRIES,
        listeners=tuple(listeners),
        tags=texts(wire.get("tags")),
        next_task=seen.next_task if seen and is_counted else str(entries[0].get("task") or "") if entries else "",
    )


def _listener(worker: Worker) -> str:
    return worker.id if worker.stand.standing in _TAKES else f"{worker.id} ({worker.stand.standing})"


def _id(wire: Json) -> str:
    return text(wire.get("id"))


def _task(wire: Json) -> Mapping[str, Any]:
    task = mapping(wire.get("task"))
    return task if task.get("id") else {}


def _numbers(values: object) -> list[float]:
    listed = values if isinstance(values, list) else [values]
    return [found for value in listed if (found := number(value)) is not None]


def moment_in(text: object) -> datetime | None:
    """A time as the server writes it; None for what is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# --- who belongs to whom, and in which order


def _parents(ids: Sequence[str]) -> dict[str, str]:
    """The agent of every sub-worker, as far as it is there; the others have none."""
    known = set(ids)
    sharing = [worker_id for worker_id in ids if (found := _GPUS.search(worker_id)) and found["shared"]]
    return {worker_id: _parent(worker_id, known, sharing) for worker_id in ids}


def _parent(worker_id: str, known: set[str], sharing: Iterable[str]) -> str:
    parent, service, _ = worker_id.partition(_SERVICE)
    if service:
        return parent if parent in known else ""
    found = _GPUS.search(worker_id)
    if not found or found["shared"]:
        return ""
    host = worker_id[: found.start()]
    return next((agent for agent in sharing if _is_of(agent, host) and _gives(agent, _gpu_names(worker_id))), "")


def _is_of(agent: str, host: str) -> bool:
    return agent.startswith(f"{host}:dgpu")


def _gives(agent: str, names: Iterable[str]) -> bool:
    """Whether these are all among the agent's GPUs, or instances of them (`0.1` of `0`)."""
    shared = _gpu_names(agent)
    return _ALL_GPUS in shared or all(name in shared or name.partition(".")[0] in shared for name in names)


def _gpu_names(worker_id: str) -> tuple[str, ...]:
    found = _GPUS.search(worker_id)
    return tuple(filter(None, found["names"].split(","))) if found else ()


def _place(worker: Worker) -> tuple[list[str | int], bool, list[str | int]]:
    return _natural(worker.parent or worker.id), bool(worker.parent), _natural(worker.id)


def _natural(text: str) -> list[str | int]:
    """Text and numbers in turn, so that keys of two texts can be compared piece by piece."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split(r"([0-9]{1,15})", text))]
