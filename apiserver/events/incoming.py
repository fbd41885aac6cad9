"""Judging a batch of events as clients send it (server_api.md, 4.7).

Each event is accepted or refused on its own: a refusal is counted under its text, the rest of the batch is stored.
Only four things refuse a whole batch: nothing in it, a line that is no object, one id claimed in two ways, and, after
judging, nothing that could be stored.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

INT64_MAX = 2**63 - 1
#: Members every event may have and that are not part of its content. `method` is noise that the SDK adds.
_ENVELOPE = frozenset(
    {"method", "type", "task", "model_event", "allow_locked", "event_id", "ts", "timestamp", "worker"}
)
MAX_EVENT_ID = 64


class EventType(StrEnum):
    """The types of events there are."""

    LOG = "log"
    SCALAR = "training_stats_scalar"
    VECTOR = "training_stats_vector"
    IMAGE = "training_debug_image"
    PLOT = "plot"


class Standing(StrEnum):
    """What the owner of an event, a task or a model, permits."""

    OPEN = "open"
    LOCKED = "locked"


class BatchRefusedError(ValueError):
    """The batch as a whole cannot be judged. `subcode` is the API's error code."""

    def __init__(self, subcode: int, message: str) -> None:
        super().__init__(message)
        self.subcode = subcode


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One accepted event with its defaults filled in. `content` is what is particular to its type."""

    type: EventType
    owner: str
    model_event: bool
    timestamp: int
    worker: str
    metric: str
    variant: str
    iteration: int | None
    event_id: str | None
    content: Mapping[str, object]

    @property
    def digest(self) -> bytes:
        """The identity of everything but log events; an event with the same one replaces this."""
        key = self.content.get("key")
        parts = (self.owner, self.iteration, self.metric, self.variant, key)
        text = "-".join(str(part) for part in parts if part not in (None, ""))
        return hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Whose events a batch holds."""

    tasks: frozenset[str]
    models: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a batch."""

    accepted: Sequence[Event]
    refusals: Mapping[str, int]

    @property
    def refused(self) -> int:
        return sum(self.refusals.values())


def owners_in(items: Sequence[object]) -> Owners:
    """Collect whose events these are, or refuse the batch."""
    if not items:
        raise BatchRefusedError(17, "Batch contains no items")
    seen: dict[str, tuple[bool, bool]] = {}
    for item in items:
        if not isinstance(item, dict):
            raise BatchRefusedError(18, "Batch item is not an object")
        owner = item.get("task")
        if isinstance(owner, str):
            claim = (item.get("model_event") is True, item.get("allow_locked") is True)
            if seen.setdefault(owner, claim) != claim:
                raise BatchRefusedError(12, f"Events of {owner} differ in model_event or allow_locked")
    return Owners(
        tasks=frozenset(owner for owner, (is_model, _) in seen.items() if not is_model),
        models=frozenset(owner for owner, (is_model, _) in seen.items() if is_model),
    )


def judge(
    items: Iterable[Mapping[str, object]], standings: Mapping[str, Standing], *, worker: str, now_ms: int
) -> Judged:
    """Accept or refuse each event. `standings` holds the owners that exist."""
    accepted: list[Event] = []
    refusals: Counter[str] = Counter()
    for item in items:
        refusal = _refusal_of(item, standings)
        if refusal:
            refusals[refusal] += 1
        else:
            accepted.append(_filled(item, worker=worker, now_ms=now_ms))
    return Judged(accepted=accepted, refusals=refusals)


def _refusal_of(item: Mapping[str, object], standings: Mapping[str, Standing]) -> str | None:
    return next(_objections(item, standings), None)


def _objections(item: Mapping[str, object], standings: Mapping[str, Standing]) -> Iterator[str]:
    """Name what is wrong with an event; the order of the checks is the protocol's."""
    kind = str(item.get("type") or "").replace(" ", "_")
    model_event = item.get("model_event") is True
    owner = item.get("task")
    if not kind:
        yield "Event must have a 'type' field"
    if kind not in _TYPES:
        yield f"Invalid event type {kind}"
    if kind == EventType.LOG and model_event:
        yield "Log events are not supported for models"
    if not owner:
        yield "Event must have a 'task' field"
    if not _may_report(standings.get(str(owner)), item):
        yield f"Invalid {'model' if model_event else 'task'} id {owner}"
    if item.get("iter") is not None and _iteration_of(item["iter"]) is None:
        yield f"Invalid iteration {item['iter']}"
    if kind == EventType.SCALAR and not _is_number(item.get("value")):
        yield "Scalar value must be a number"
    if len(str(item.get("event_id") or "")) > MAX_EVENT_ID:
        yield f"Event id is longer than {MAX_EVENT_ID} characters"


_TYPES = frozenset(EventType)


def _may_report(standing: Standing | None, item: Mapping[str, object]) -> bool:
    return standing is Standing.OPEN or (standing is Standing.LOCKED and item.get("allow_locked") is True)


def _iteration_of(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if -INT64_MAX <= value <= INT64_MAX else None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _filled(item: Mapping[str, object], *, worker: str, now_ms: int) -> Event:
    event_id = item.get("event_id")
    return Event(
        type=EventType(str(item["type"]).replace(" ", "_")),
        owner=str(item["task"]),
        model_event=item.get("model_event") is True,
        timestamp=_timestamp_of(item, now_ms),
        worker=_text(item.get("worker")) or worker,
        metric=_text(item.get("metric")),
        variant=_text(item.get("variant")),
        iteration=_iteration_of(item.get("iter")),
        event_id=_text(event_id) if event_id else None,
        content={key: value for key, value in item.items() if key not in _ENVELOPE and value is not None},
    )


def _timestamp_of(item: Mapping[str, object], now_ms: int) -> int:
    for name in ("timestamp", "ts"):
        value = item.get(name)
        if isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= _LAST_TIMESTAMP:
            return int(value)
    return now_ms


_LAST_TIMESTAMP = 253_402_300_799_000  # the end of the year 9999: later times cannot be written as dates


def _text(value: object) -> str:
    """Return text that any encoder takes: a lone surrogate, legal in JSON, is not legal in UTF-8."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def finite(value: object) -> float:
    """Return a scalar's value as it is stored: what JSON cannot carry becomes 0.0."""
    number = float(value) if isinstance(value, int | float) else 0.0
    return number if math.isfinite(number) else 0.0


def log_text(event: Event) -> str:
    """Return a log event's message."""
    return _text(event.content.get("msg"))


def log_level(event: Event) -> str:
    """Return a log event's level; free text is tolerated."""
    return _text(event.content.get("level"))
