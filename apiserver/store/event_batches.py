"""Events in the database: a batch goes in as one change, together with what it says about its task.

`prepare` does the expensive part (judging, sorting) on a reading connection; `add` is the change itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from ..events.console import LogLine
from ..events.incoming import Event, EventType, Judged, Standing, finite, judge, log_level, log_text, owners_in
from ..events.metrics import MAX_LAST_METRICS, MONITOR_METRICS, name_hash, on_the_wire
from ..events.points import Point
from . import models, tasks
from .console import add_lines, is_repeat, unseen_ids
from .database import Session, Transaction
from .documents import add_documents
from .scalars import Names, Report, Series, add_points
from .schema import model, task

_LOCKED_STATUSES = frozenset({"published", "publishing"})
_IDS_PER_QUESTION = 500


@dataclass(slots=True, kw_only=True)
class OwnerReport:
    """What a batch holds for one task or model."""

    is_model: bool
    lines: list[tuple[str | None, LogLine]] = field(default_factory=list)
    curves: dict[Names, Report] = field(default_factory=dict)
    documents: list[Event] = field(default_factory=list)
    last_iteration: int | None = None
    activity: dict[tuple[str, EventType], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A judged batch, sorted by whom it is about."""

    company: str
    judged: Judged
    reports: Mapping[str, OwnerReport]


def standings(session: Session, task_ids: Iterable[str], model_ids: Iterable[str], company: str) -> dict[str, Standing]:
    """Look up which of these tasks and models exist, and whether they still take events."""
    found: dict[str, Standing] = {}
    for some in _portions(task_ids):
        for row in tasks.for_events(session, some, company).values():
            found[row["id"]] = _standing(locked=row["status"] in _LOCKED_STATUSES)
    for some in _portions(model_ids):
        for row in models.for_events(session, some, company).values():
            found[row["id"]] = _standing(locked=row["ready"])
    return found


def names_of(session: Session, tasks: Sequence[str], models: Sequence[str], company: str) -> dict[str, str]:
    """The names of those of these tasks and models that the company may look at."""
    found: dict[str, str] = {}
    for table, ids in ((task, tasks), (model, models)):
        for some in _portions(ids):
            question = sa.select(table.c.id, table.c.name)
            rows = session.all(question.where(table.c.id.in_(some), table.c.company.in_((company, ""))))
            found |= {row["id"]: row["name"] for row in rows}
    return found


def status_of(session: Session, task_id: str) -> str:
    """The status of a task that exists."""
    return str(session.value(sa.select(task.c.status).where(task.c.id == task_id)))


def prepare(session: Session, items: Sequence[Mapping[str, object]], *, company: str, worker: str) -> Prepared:
    """Judge a batch and sort it; raises `BatchRefusedError` when it cannot be judged."""
    owners = owners_in(items)
    known = standings(session, owners.tasks, owners.models, company)
    judged = judge(items, known, worker=worker, now_ms=session.now_ms)
    reports: dict[str, OwnerReport] = {}
    for event in judged.accepted:
        report = reports.setdefault(event.owner, OwnerReport(is_model=event.model_event))
        _sort_in(report, event, session.now_ms)
    return Prepared(company=company, judged=judged, reports=reports)


def add(tx: Transaction, prepared: Prepared) -> None:
    """Store a batch and what it says about its tasks and models."""
    task_ids = [owner for owner, report in prepared.reports.items() if not report.is_model]
    model_ids = [owner for owner, report in prepared.reports.items() if report.is_model]
    present = standings(tx, task_ids, model_ids, prepared.company)
    for owner, report in prepared.reports.items():
        if owner in present:
            _store(tx, owner, report)


def _portions(ids: Iterable[str]) -> Iterable[list[str]]:
    wanted = list(ids)
    return (wanted[start : start + _IDS_PER_QUESTION] for start in range(0, len(wanted), _IDS_PER_QUESTION))


def _standing(*, locked: bool) -> Standing:
    return Standing.LOCKED if locked else Standing.OPEN


def _sort_in(report: OwnerReport, event: Event, received: int) -> None:
    if event.type is EventType.LOG:
        report.lines.append((event.event_id, _line_of(event, received)))
        return
    report.activity[event.metric, event.type] = received
    iteration = event.iteration
    if iteration is not None and event.metric not in MONITOR_METRICS:
        report.last_iteration = max(iteration, report.last_iteration or 0)
    if event.type is not EventType.SCALAR:
        report.documents.append(event)
    elif event.content.get("value") is not None:
        _sort_in_point(report, event)


def _sort_in_point(report: OwnerReport, event: Event) -> None:
    curve = report.curves.setdefault((event.metric, event.variant), Report(worker=event.worker))
    curve.points.append(Point(event.iteration or 0, event.timestamp, finite(event.content["value"])))
    label = event.content.get("x_axis_label")
    if isinstance(label, str):
        curve.x_axis_label = label


def _line_of(event: Event, received: int) -> LogLine:
    return LogLine(
        timestamp=event.timestamp,
        level=log_level(event),
        worker=event.worker,
        msg=log_text(event),
        received=received,
        metric=event.metric,
        variant=event.variant,
    )


def _store(tx: Transaction, owner: str, report: OwnerReport) -> None:
    add_lines(tx, owner, _new_lines(tx, owner, report.lines))
    add_documents(tx, report.documents)
    touched = add_points(tx, owner, report.curves) if report.curves else []
    _touch(tx, owner, report, touched)


def _new_lines(tx: Transaction, owner: str, lines: Sequence[tuple[str | None, LogLine]]) -> list[LogLine]:
    named = [event_id for event_id, _ in lines if event_id is not None]
    unnamed = [line for event_id, line in lines if event_id is None]
    new = unseen_ids(tx, owner, named) if named else set()
    repeated = bool(unnamed) and is_repeat(tx, owner, unnamed)
    kept: list[LogLine] = []
    for event_id, line in lines:
        if event_id is None and not repeated:
            kept.append(line)
        elif event_id is not None and event_id in new:
            new.discard(event_id)
            kept.append(line)
    return kept


def _touch(tx: Transaction, owner: str, report: OwnerReport, touched: Sequence[Series]) -> None:
    """Note the sign of life, and what is now known of the curves."""
    store = models if report.is_model else tasks
    if not touched and not report.activity:
        store.touch_by_events(tx, owner, iteration=report.last_iteration)
        return
    last_metrics, metric_stats = store.metrics(tx, owner)
    store.touch_by_events(
        tx,
        owner,
        iteration=report.last_iteration,
        last_metrics=_last_metrics(last_metrics, touched),
        metric_stats=_metric_stats(metric_stats, report.activity),
    )


def _last_metrics(known: dict[str, dict[str, object]], touched: Sequence[Series]) -> dict[str, dict[str, object]]:
    room = MAX_LAST_METRICS - sum(map(len, known.values()))
    for series in touched:
        variants = known.get(name_hash(series.metric), {})
        key = name_hash(series.variant)
        if key not in variants:
            if room <= 0:
                continue
            room -= 1
        entry = on_the_wire(series.metric, series.variant, series.last, x_axis_label=series.x_axis_label)
        known[name_hash(series.metric)] = {**variants, key: entry}
    return known


def _metric_stats(
    known: dict[str, dict[str, object]], activity: Mapping[tuple[str, EventType], int]
) -> dict[str, dict[str, object]]:
    for (metric, kind), moment in activity.items():
        entry = known.setdefault(name_hash(metric), {"metric": metric, "event_stats_by_type": {}})
        stats = entry["event_stats_by_type"]
        if isinstance(stats, dict):
            stats[kind.value] = {"last_update": moment}
    return known
