"""`events.*`: curves of scalars, and the names that tasks report under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..events.incoming import EventType
from ..events.points import NO_ITERATION, Axis, Point, curve_of, iso_time
from ..fields import Fields
from ..store import documents, event_batches, scalars
from ..store.database import Session
from ..store.scalars import Series
from .event_requests import Place, require, require_owner, wanted_metrics

MOST_TASKS_COMPARED = 100
MOST_RAW_POINTS = 200_000

_AXES = frozenset(axis.value for axis in Axis)
_EVENT_TYPES = frozenset(kind.value for kind in EventType)


@endpoint("events.scalar_metrics_iter_histogram")
async def scalar_metrics_iter_histogram(call: Call, data: Fields) -> Reply:
    """All curves of a task, sampled for display; the reply itself is keyed by metric."""
    owner, draw = data.ident("task"), _drawer_for(data)
    wanted, of_model = wanted_metrics(data.objects("metrics")), data.flag("model_events", False)

    def question(tx: Session) -> Reply:
        require_owner(tx, call, owner, of_model=of_model)
        reply: Reply = {}
        for series in scalars.series_of(tx, owner, wanted):
            if curve := draw(tx, series, series.variant):
                reply.setdefault(series.metric, {})[series.variant] = curve
        return reply

    return await call.read(question)


@endpoint("events.multi_task_scalar_metrics_iter_histogram")
async def multi_task_scalar_metrics_iter_histogram(call: Call, data: Fields) -> Reply:
    """The curves of several tasks, side by side."""
    tasks, draw = data.idents("tasks"), _drawer_for(data)
    wanted = wanted_metrics(data.objects("metrics"))
    if len(tasks) > MOST_TASKS_COMPARED:
        raise errors.VALIDATION("too many tasks", field="tasks", max=MOST_TASKS_COMPARED)

    def question(tx: Session) -> Reply:
        names = require(tx, call, tasks=tasks)
        metrics: Reply = {}
        for task_id in tasks:
            for series in scalars.series_of(tx, task_id, wanted):
                if curve := draw(tx, series, names[task_id]):
                    metrics.setdefault(series.metric, {}).setdefault(series.variant, {})[task_id] = curve
        return {"metrics": metrics}

    return await call.read(question)


_Drawer = Callable[[Session, Series, str], Reply | None]


def _drawer_for(data: Fields) -> _Drawer:
    axis = Axis(data.one_of("key", _AXES, Axis.ITERATION.value))
    samples = data.integer("samples", 2_000, least=1, most=6_000)

    def draw(tx: Session, series: Series, name: str) -> Reply | None:
        points = _with_iteration(scalars.points_of(tx, series))
        if not points:
            return None
        curve = curve_of(points, axis, samples)
        label = {"x_axis_label": series.x_axis_label} if series.x_axis_label else {}
        return {"name": name, "x": curve.x, "y": curve.y, **label}

    return draw


def _with_iteration(points: Sequence[Point]) -> Sequence[Point]:
    """Drop the value that belongs to no iteration; it sorts before all others."""
    return points[1:] if points and points[0].iteration == NO_ITERATION else points


@endpoint("events.scalar_metrics_iter_raw")
async def scalar_metrics_iter_raw(call: Call, data: Fields) -> Reply:
    """The points of one metric as they were reported, page by page."""
    owner, of_model = data.ident("task"), data.flag("model_events", False)
    wanted = wanted_metrics([Fields(data.mapping("metric"))])
    size = data.integer("batch_size", 10_000, least=1, most=MOST_RAW_POINTS)
    axis = Axis(data.one_of("key", _AXES, Axis.ITERATION.value))
    place = Place.read(call, data, "scalar_metrics_iter_raw", {"task": owner, "metric": wanted})

    def question(tx: Session) -> Reply:
        require_owner(tx, call, owner, of_model=of_model)
        series = scalars.series_of(tx, owner, wanted)
        total = sum(len(_with_iteration(scalars.points_of(tx, one))) for one in series)
        after = NO_ITERATION if place.key is None else place.key
        page = scalars.scalars_after(tx, owner, wanted, after, size)
        variants: dict[str, dict[str, list[Any]]] = {}
        for scalar in page:
            columns = variants.setdefault(scalar.variant, {axis.value: [], "y": []})
            columns[axis.value].append(_place_on(axis, scalar.point))
            columns["y"].append(scalar.point.value)
        scroll_id = place.after(page[-1].point.iteration if page else place.key, len(page), total)
        return {"variants": variants, "returned": len(page), "total": total, "scroll_id": scroll_id}

    return await call.read(question)


def _place_on(axis: Axis, point: Point) -> int | str:
    match axis:
        case Axis.ITERATION:
            return point.iteration
        case Axis.TIMESTAMP:
            return point.timestamp
        case Axis.ISO_TIME:
            return iso_time(point.timestamp)


@endpoint("events.get_task_single_value_metrics")
async def get_task_single_value_metrics(call: Call, data: Fields) -> Reply:
    """The scalars that tasks reported without an iteration."""
    owners, of_models = data.idents("tasks"), data.flag("model_events", False)
    wanted = wanted_metrics(data.objects("metrics"))

    def question(tx: Session) -> Reply:
        names = require(tx, call, models=owners) if of_models else require(tx, call, tasks=owners)
        found = []
        for owner in owners:
            values = [value for series in scalars.series_of(tx, owner, wanted) if (value := _single(tx, series))]
            if values:
                found.append({"task": owner, "task_name": names[owner], "values": values})
        return {"tasks": found}

    return await call.read(question)


def _single(tx: Session, series: Series) -> Reply | None:
    point = scalars.single_value_of(tx, series)
    if point is None:
        return None
    return {
        "metric": series.metric,
        "variant": series.variant,
        "value": point.value,
        "timestamp": point.timestamp,
    }


@endpoint("events.get_scalar_metrics_and_variants")
async def get_scalar_metrics_and_variants(call: Call, data: Fields) -> Reply:
    """The names of a task's curves."""
    owner, of_model = data.ident("task"), data.flag("model_events", False)

    def question(tx: Session) -> Reply:
        require_owner(tx, call, owner, of_model=of_model)
        metrics: dict[str, list[str]] = {}
        for series in scalars.series_of(tx, owner):
            metrics.setdefault(series.metric, []).append(series.variant)
        return {"metrics": metrics}

    return await call.read(question)


@endpoint("events.get_task_latest_scalar_values")
async def get_task_latest_scalar_values(call: Call, data: Fields) -> Reply:
    """The last value of each curve of a task."""
    task_id = data.ident("task")

    def question(tx: Session) -> Reply:
        names = require(tx, call, tasks=[task_id])
        all_series = scalars.series_of(tx, task_id)
        metrics: dict[str, list[Reply]] = {}
        for series in all_series:
            last = {"name": series.variant, "last_value": series.last.value, "last_timestamp": series.last.timestamp}
            metrics.setdefault(series.metric, []).append(last)
        return {
            "metrics": [{"name": metric, "variants": variants} for metric, variants in metrics.items()],
            "last_iter": max((series.last.iteration for series in all_series), default=0),
            "last_timestamp": max((series.last.timestamp for series in all_series), default=0),
            "name": names[task_id],
            "status": event_batches.status_of(tx, task_id),
        }

    return await call.read(question)


@endpoint("events.get_task_metrics")
async def get_task_metrics(call: Call, data: Fields) -> Reply:
    """Which metrics tasks have reported events of a type under."""
    owners, kind = data.idents("tasks"), EventType(data.one_of("event_type", _EVENT_TYPES))
    of_models = data.flag("model_events", False)

    def question(tx: Session) -> Reply:
        known = require(tx, call, models=owners) if of_models else require(tx, call, tasks=owners)
        return {"metrics": [{"task": owner, "metrics": _metrics_of(tx, owner, kind)} for owner in known]}

    return await call.read(question)


def _metrics_of(tx: Session, owner: str, kind: EventType) -> list[str]:
    if kind is EventType.SCALAR:
        return sorted({series.metric for series in scalars.series_of(tx, owner)})
    return sorted({outline.metric for outline in documents.outlines(tx, owner, kind)})
