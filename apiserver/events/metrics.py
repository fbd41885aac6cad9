"""The arithmetic behind a task's `last_metrics` (server_api.md, 4.8).

Hyperparameter search sorts tasks by these figures, so they are kept up to date at insert time, per metric and variant,
and never recomputed from the curve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .points import Point

#: Distinct metric/variant pairs a task may have in `last_metrics`; further ones are kept as events only.
MAX_LAST_METRICS = 2_000
#: Metrics of the resource monitor: their iteration counts seconds, so it says nothing about the task's progress.
MONITOR_METRICS = frozenset({":monitor:machine", ":monitor:gpu"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LastMetric:
    """What is remembered of one metric and variant. `iteration` and `timestamp` belong to `value`."""

    value: float
    iteration: int
    timestamp: int
    count: int
    total: float
    min_value: float
    min_value_iteration: int
    max_value: float
    max_value_iteration: int
    first_value: float
    first_value_iteration: int

    @property
    def mean_value(self) -> float:
        return self.total / self.count


def name_hash(name: str) -> str:
    """Hash a metric or variant name to the key it has in `last_metrics`."""
    return hashlib.md5(name.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def summary_of(points: Iterable[Point]) -> LastMetric:
    """Sum up the points of one request; there must be at least one."""
    rows = sorted(points, key=lambda point: (point.iteration, point.timestamp))
    lowest = min(rows, key=lambda point: point.value)
    highest = max(rows, key=lambda point: point.value)
    return LastMetric(
        value=rows[-1].value,
        iteration=rows[-1].iteration,
        timestamp=rows[-1].timestamp,
        count=len(rows),
        total=sum(point.value for point in rows),
        min_value=lowest.value,
        min_value_iteration=lowest.iteration,
        max_value=highest.value,
        max_value_iteration=highest.iteration,
        first_value=rows[0].value,
        first_value_iteration=rows[0].iteration,
    )


def combined(known: LastMetric | None, new: LastMetric) -> LastMetric:
    """Add a request's summary to what is known.

    An older row never replaces a newer value, so a repeated old batch is harmless; within one iteration the later
    request wins. Extremes are compared strictly, so the first iteration that reached one keeps it.
    """
    if known is None:
        return new
    result = replace(known, count=known.count + new.count, total=known.total + new.total)
    if new.iteration >= known.iteration:
        result = replace(result, value=new.value, iteration=new.iteration, timestamp=new.timestamp)
    if new.min_value < known.min_value:
        result = replace(result, min_value=new.min_value, min_value_iteration=new.min_value_iteration)
    if new.max_value > known.max_value:
        result = replace(result, max_value=new.max_value, max_value_iteration=new.max_value_iteration)
    return result


def on_the_wire(metric: str, variant: str, known: LastMetric, *, x_axis_label: str | None = None) -> dict[str, object]:
    """Show one entry the way clients read it."""
    entry: dict[str, object] = {
        "metric": metric,
        "variant": variant,
        "value": known.value,
        "count": known.count,
        "mean_value": known.mean_value,
        "min_value": known.min_value,
        "min_value_iteration": known.min_value_iteration,
        "max_value": known.max_value,
        "max_value_iteration": known.max_value_iteration,
        "first_value": known.first_value,
        "first_value_iteration": known.first_value_iteration,
    }
    if x_axis_label:
        entry["x_axis_label"] = x_axis_label
    return entry
