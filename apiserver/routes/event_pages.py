"""`events.get_task_events`: everything a task reported, page by page."""

from __future__ import annotations

from ..calls import Call
from ..endpoints import Reply, endpoint
from ..events.incoming import EventType
from ..fields import Fields
from ..store import console, documents, scalars
from ..store.database import Session
from ..store.scalars import Wanted
from .event_requests import Place, require_owner, wanted_metrics
from .events import log_event

MOST_EVENTS_PER_PAGE = 10_000

_EVENT_TYPES = frozenset(kind.value for kind in EventType)
_ORDERS = frozenset({"asc", "desc"})


@endpoint("events.get_task_events")
async def get_task_events(call: Call, data: Fields) -> Reply:
    """Read all events of a type (or of all types), page by page, by iteration; the console by time, after the rest.

    Clients add up `returned` until they have `total`, or stop at a page that is not full. So pages are filled up, and
    rows that vanished in between are made up for by the number `returned` of one last, empty page.
    """
    owner, of_model = data.ident("task"), data.flag("model_events", False)
    kind = data.one_of("event_type", _EVENT_TYPES | {"all"}, "all")
    size = data.integer("batch_size", 500, least=1, most=MOST_EVENTS_PER_PAGE)
    descending = data.one_of("order", _ORDERS, "asc") == "desc"
    wanted = wanted_metrics(data.objects("metrics"))
    place = Place.read(call, data, "get_task_events", {"task": owner, "type": kind, "order": descending, "m": wanted})
    source = _EventSource(owner=owner, kind=kind, wanted=wanted, descending=descending)

    def question(tx: Session) -> Reply:
        require_owner(tx, call, owner, of_model=of_model)
        total = source.total(tx) if place.total is None else place.total
        found, position = source.page(tx, place.key, place.stage, size)
        returned = len(found) or max(0, total - place.delivered)
        scroll_id = place.after(position[1], returned, total, stage=position[0])
        return {"events": found, "returned": returned, "total": total, "scroll_id": scroll_id}

    return await call.read(question)


class _EventSource:
    """All events of a task in one order: those with an iteration first (stage 0), then the console (stage 1)."""

    def __init__(self, *, owner: str, kind: str, wanted: Wanted, descending: bool) -> None:
        self._owner = owner
        self._wanted = wanted
        self._descending = descending
        self._with_scalars = kind in ("all", EventType.SCALAR)
        self._with_console = kind in ("all", EventType.LOG)
        self._documents = [
            one for one in EventType if kind in ("all", one) and one not in (EventType.SCALAR, EventType.LOG)
        ]

    def total(self, tx: Session) -> int:
        count = sum(len(documents.outlines(tx, self._owner, kind, self._wanted)) for kind in self._documents)
        if self._with_scalars:
            count += sum(series.points for series in scalars.series_of(tx, self._owner, self._wanted))
        if self._with_console:
            count += console.count_lines(tx, self._owner)
        return count

    def page(self, tx: Session, key: int | None, stage: int, size: int) -> tuple[list[Reply], tuple[int, int | None]]:
        found: list[Reply] = []
        if stage == 0:
            found = self._with_iteration(tx, key, size)
            key = found[-1]["iter"] if found else key
            if len(found) >= size or not self._with_console:
                return found, (0, key)
            key = None
        lines = self._lines(tx, key, size - len(found))
        return [*found, *lines], (1, lines[-1]["timestamp"] if lines else key)

    def _with_iteration(self, tx: Session, key: int | None, size: int) -> list[Reply]:
        rows = [*self._scalars(tx, key, size), *self._documents_beyond(tx, key)]
        rows.sort(key=lambda row: row[0], reverse=self._descending)
        end = min(size, len(rows))
        while 0 < end < len(rows) and rows[end][0] == rows[end - 1][0]:
            end += 1
        chosen = rows[:end]
        ids = [row for _, row in chosen if isinstance(row, int)]
        content = dict(zip(ids, documents.contents(tx, ids), strict=True))
        return [content[row] if isinstance(row, int) else row for _, row in chosen]

    def _scalars(self, tx: Session, key: int | None, size: int) -> list[tuple[int, Reply | int]]:
        if not self._with_scalars:
            return []
        read = scalars.scalars_before if self._descending else scalars.scalars_after
        found = read(tx, self._owner, self._wanted, key, size)
        return [(scalar.point.iteration, self._scalar_event(scalar)) for scalar in found]

    def _documents_beyond(self, tx: Session, key: int | None) -> list[tuple[int, Reply | int]]:
        outlines = [one for kind in self._documents for one in documents.outlines(tx, self._owner, kind, self._wanted)]
        return [(one.iteration, one.id) for one in outlines if key is None or self._is_beyond(one.iteration, key)]

    def _is_beyond(self, iteration: int, key: int) -> bool:
        return iteration < key if self._descending else iteration > key

    def _scalar_event(self, scalar: scalars.Scalar) -> Reply:
        return {
            "type": EventType.SCALAR.value,
            "task": self._owner,
            "timestamp": scalar.point.timestamp,
            "worker": scalar.worker,
            "metric": scalar.metric,
            "variant": scalar.variant,
            "iter": scalar.point.iteration,
            "value": scalar.point.value,
        }

    def _lines(self, tx: Session, key: int | None, size: int) -> list[Reply]:
        read = console.lines_before if self._descending else console.lines_after
        return [log_event(self._owner, line) for line in read(tx, self._owner, key, size)]
