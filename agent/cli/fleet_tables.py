"""A fleet as tables and warnings for people; what a name holds must not steer a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo

from agent.cli.fleet import DUPLICATE_ID, Gpus, Queue, QueueOfWorker, Worker, moment_in, state_as
from agent.table import table

_NAME_LENGTH = 40
_MOST_LISTENERS = 3
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def worker_table(workers: Iterable[Worker], *, now: datetime, zone: tzinfo | None = None) -> str:
    """A line per worker. Times of day are those of `zone` (None: of this host), which may not be the worker's."""
    heads = ("Worker", "State", "Task", "Running for", "Queues", "GPUs", "Reported")
    return table(heads, (_cleaned(_worker_line(worker, now, zone)) for worker in workers))


def queue_table(queues: Iterable[Queue]) -> str:
    """A line per queue."""
    heads = ("Queue", "Waiting", "Workers", "Tags", "Next task")
    return table(heads, (_cleaned(_queue_line(queue)) for queue in queues))


def warnings(workers: Iterable[Worker], queues: Iterable[Queue]) -> list[str]:
    """What somebody should look into."""
    told = [
        f"{worker.id}: two agents report under this id (duplicate-id); give one of them another"
        for worker in workers
        if worker.is_duplicate
    ]
    for queue in queues:
        if queue.waiting and not queue.listeners:
            verb = "task waits" if queue.waiting == 1 else "tasks wait"
            told.append(f"{queue.name}: {_amount(queue)} {verb} and no worker listens")
    return [_clean(text) for text in told]


def state_text(worker: Worker, *, now: datetime, zone: tzinfo | None = None) -> str:
    """The state with until when, or why."""
    stand = worker.stand
    tail = f" until {_until(stand.until, now, zone)}" if stand.until else f": {stand.why}" if stand.why else ""
    return state_as(worker, f"{stand.standing}{tail}")


def _until(text: str, now: datetime, zone: tzinfo | None) -> str:
    """As short as it can be said: the time of today, the day of this week, or the date."""
    moment = moment_in(text)
    if moment is None:
        return text
    moment, today = moment.astimezone(zone), now.astimezone(zone).date()
    days = (moment.date() - today).days
    day = "" if days == 0 else f"{_DAYS[moment.weekday()]} " if 0 < days < len(_DAYS) else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M}"


def _worker_line(worker: Worker, now: datetime, zone: tzinfo | None) -> tuple[str, ...]:
    age = None if worker.reported is None else (now - worker.reported).total_seconds()
    return (
        f"{'  ' if worker.parent else ''}{worker.id}{f' ({DUPLICATE_ID})' if worker.is_duplicate else ''}",
        state_text(worker, now=now, zone=zone),
        f"{worker.task} {_short(worker.task_name)}",
        _span(worker.task_seconds),
        ", ".join(_queue_text(queue) for queue in worker.queues),
        _gpu_text(worker.gpus) if worker.gpus else "",
        "never" if age is None else f"{_span(age)} ago",
    )


def _queue_line(queue: Queue) -> tuple[str, ...]:
    more = len(queue.listeners) - _MOST_LISTENERS
    listeners = ", ".join(queue.listeners[:_MOST_LISTENERS]) + (f" and {more} more" if more > 0 else "")
    return queue.name, _amount(queue), listeners or "nobody", ", ".join(queue.tags), queue.next_task


def _amount(queue: Queue) -> str:
    return "?" if queue.waiting is None else f"{queue.waiting}{' or more' if queue.is_more else ''}"


def _queue_text(queue: QueueOfWorker) -> str:
    return queue.name if queue.waiting is None else f"{queue.name} ({queue.waiting})"


def _gpu_text(gpus: Gpus) -> str:
    """How many and what they do; which, where that is all that is known."""
    if gpus.usage_percent is None and gpus.memory_used_mib is None:
        return f"gpu{','.join(gpus.names)}"
    parts = [f"{gpus.count}"]
    if gpus.usage_percent is not None:
        parts.append(f"{gpus.usage_percent:.0f} %")
    if gpus.memory_used_mib is not None:
        total = "" if gpus.memory_total_mib is None else f"/{gpus.memory_total_mib / 1024:.0f}"
        parts.append(f"{gpus.memory_used_mib / 1024:.1f}{total} GiB")
    return ", ".join(parts)


def _span(seconds: float | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    for size, unit, part, of_part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {of_part}" if rest else "")
    return f"{whole} s"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _cleaned(line: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(_clean, line))


def _clean(text: str) -> str:
    """Others chose these names: no line breaks, and nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text.rstrip())
