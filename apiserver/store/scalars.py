"""Scalar curves in the database.

The newest points of a curve stand in its own row, next to what `last_metrics` says of it, so that a report is one read
and one write. When they are many they are closed into a chunk. A report that goes back behind the closed part is laid
over the chunks it concerns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import sqlalchemy as sa

from ..events.metrics import LastMetric, combined, name_hash, summary_of
from ..events.paging import Block, first_after, last_before
from ..events.points import CHUNK_POINTS, NO_ITERATION, Point, decode, encode, merged, split
from .database import Session, Transaction
from .event_tables import scalar_chunk, scalar_series

_SUMMARY = tuple(column.name for column in fields(LastMetric))
_NAMES_PER_QUESTION = 400
Names = tuple[str, str]
#: Which metrics are wanted, and of each which variants; no variants means all of them, None means all metrics.
Wanted = Mapping[str, Sequence[str]] | None


@dataclass(slots=True, kw_only=True)
class Report:
    """What one request says about one curve; filled while its events are sorted."""

    worker: str
    points: list[Point] = field(default_factory=list)
    x_axis_label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """One point with its names."""

    metric: str
    variant: str
    worker: str
    point: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A curve as a row: its names, and what is remembered of its points. `fresh` says that it has just begun."""

    id: int
    metric: str
    variant: str
    worker: str
    x_axis_label: str | None
    last: LastMetric
    points: int
    fresh: bool = False


def add_points(tx: Transaction, owner: str, reports: Mapping[Names, Report]) -> list[Series]:
    """Store what a request reported; return the touched curves as they are now."""
    hashes = {(name_hash(metric), name_hash(variant)): (metric, variant) for metric, variant in reports}
    known = {(row["metric_hash"], row["variant_hash"]): row for row in _rows(tx, owner, {m for m, _ in hashes})}
    touched: list[Series] = []
    changes: list[dict[str, Any]] = []
    for key, names in hashes.items():
        row, report = known.get(key), reports[names]
        if row is None:
            touched.append(_begin(tx, owner, key, names, report))
        else:
            changes.append(_extended(tx, row, report))
            touched.append(_series({**row, **changes[-1]}))
    if changes:
        here = scalar_series.c.id == sa.bindparam("series")
        tx.execute(scalar_series.update().where(here), [{"series": row.pop("id"), **row} for row in changes])
    return touched


def series_of(session: Session, owner: str, wanted: Wanted = None) -> list[Series]:
    """List a task's curves, by name."""
    columns = [column for column in scalar_series.c if column.name != "open_body"]
    question = sa.select(*columns).where(scalar_series.c.owner == owner, *_only(wanted))
    rows = session.all(question.order_by(scalar_series.c.metric, scalar_series.c.variant))
    return [_series(row) for row in rows if _is_wanted(row, wanted)]


def points_of(session: Session, series: Series) -> list[Point]:
    """Read all points of a curve in the order of iterations."""
    chunks = sa.select(scalar_chunk.c.body).where(scalar_chunk.c.series == series.id)
    points: list[Point] = []
    for body in session.execute(chunks.order_by(scalar_chunk.c.first_iteration)).scalars():
        points += decode(body)
    return points + _open_points(session, series.id)


def single_value_of(session: Session, series: Series) -> Point | None:
    """Read the value that was reported without an iteration; it sorts before all others."""
    first = sa.select(scalar_chunk.c.body).where(scalar_chunk.c.series == series.id)
    body = session.value(first.order_by(scalar_chunk.c.first_iteration).limit(1))
    points = decode(body) if body else _open_points(session, series.id)
    return points[0] if points and points[0].iteration == NO_ITERATION else None


def scalars_after(session: Session, owner: str, wanted: Wanted, after: int | None, size: int) -> list[Scalar]:
    """Read points of all curves in ascending order of iterations, those beyond `after`."""
    blocks = sorted(_blocks(session, owner, wanted), key=lambda block: block.low)
    return [scalar for _, scalar in first_after(blocks, after, size)]


def scalars_before(session: Session, owner: str, wanted: Wanted, before: int | None, size: int) -> list[Scalar]:
    """Read points of all curves in descending order of iterations, those in front of `before`."""
    blocks = sorted(_blocks(session, owner, wanted), key=lambda block: -block.high)
    return [scalar for _, scalar in last_before(blocks, before, size)]


def delete_scalars(tx: Transaction, owner: str) -> int:
    """Delete the curves of a task or model; returns how many points they had."""
    here = scalar_series.c.owner == owner
    points = int(tx.value(sa.select(sa.func.sum(scalar_series.c.points)).where(here)) or 0)
    tx.execute(scalar_chunk.delete().where(scalar_chunk.c.series.in_(sa.select(scalar_series.c.id).where(here))))
    tx.execute(scalar_series.delete().where(here))
    return points


def _rows(tx: Transaction, owner: str, metric_hashes: Iterable[str]) -> Iterator[sa.RowMapping]:
    wanted = list(metric_hashes)
    for start in range(0, len(wanted), _NAMES_PER_QUESTION):
        some = wanted[start : start + _NAMES_PER_QUESTION]
        yield from tx.all(
            scalar_series.select().where(scalar_series.c.owner == owner, scalar_series.c.metric_hash.in_(some))
        )


def _begin(tx: Transaction, owner: str, key: Names, names: Names, report: Report) -> Series:
    last = summary_of(report.points)
    points = merged((), report.points)
    row = {
        "owner": owner,
        "metric_hash": key[0],
        "variant_hash": key[1],
        "metric": names[0],
        "variant": names[1],
        "worker": report.worker,
        "x_axis_label": report.x_axis_label,
        "points": len(points),
        "open_body": b"",
        **asdict(last),
    }
    inserted = tx.execute(scalar_series.insert().values(**row))
    series_id = int(inserted.inserted_primary_key[0]) if inserted.inserted_primary_key else 0
    tx.execute(scalar_series.update().where(scalar_series.c.id == series_id).values(**_closed(tx, series_id, points)))
    return _series({"id": series_id, **row}, fresh=True)


def _extended(tx: Transaction, row: sa.RowMapping, report: Report) -> dict[str, Any]:
    """What the row of a known curve is after a report; always the same columns."""
    until = row["closed_until"]
    recent = [point for point in report.points if until is None or point.iteration > until]
    older = [point for point in report.points if until is not None and point.iteration <= until]
    before = decode(row["open_body"])
    open_points = merged(before, recent)
    added = len(open_points) - len(before) + _lay_over_chunks(tx, row["id"], older)
    return {
        "id": row["id"],
        "worker": report.worker,
        "x_axis_label": report.x_axis_label or row["x_axis_label"],
        "points": row["points"] + added,
        "closed_until": until,
        **asdict(combined(_last(row), summary_of(report.points))),
        **_closed(tx, row["id"], open_points),
    }


def _closed(tx: Transaction, series: int, points: Sequence[Point]) -> dict[str, object]:
    """Close what is too much for the open part; return what changes in the row of the series."""
    if len(points) < CHUNK_POINTS:
        return {"open_body": encode(points)}
    whole = len(points) // CHUNK_POINTS * CHUNK_POINTS
    _insert_chunks(tx, series, points[:whole])
    return {"open_body": encode(points[whole:]), "closed_until": points[whole - 1].iteration}


def _lay_over_chunks(tx: Transaction, series: int, points: Sequence[Point]) -> int:
    """Merge points into the closed part, each into the first chunk that ends at or behind it; count the new ones."""
    added = 0
    pending = sorted(points)
    while pending:
        question = sa.select(scalar_chunk.c.id, scalar_chunk.c.last_iteration, scalar_chunk.c.body).where(
            scalar_chunk.c.series == series, scalar_chunk.c.last_iteration >= pending[0].iteration
        )
        chunk = tx.all(question.order_by(scalar_chunk.c.first_iteration).limit(1))[0]
        here = {point.iteration for point in pending if point.iteration <= chunk["last_iteration"]}
        before = decode(chunk["body"])
        after = merged(before, (point for point in points if point.iteration in here))
        tx.execute(scalar_chunk.delete().where(scalar_chunk.c.id == chunk["id"]))
        _insert_chunks(tx, series, after)
        added += len(after) - len(before)
        pending = [point for point in pending if point.iteration not in here]
    return added


def _insert_chunks(tx: Transaction, series: int, points: Sequence[Point]) -> None:
    rows = [
        {
            "series": series,
            "first_iteration": chunk[0].iteration,
            "last_iteration": chunk[-1].iteration,
            "body": encode(chunk),
        }
        for chunk in split(points)
    ]
    tx.execute(scalar_chunk.insert(), rows)


def _open_points(session: Session, series: int) -> list[Point]:
    return decode(session.value(sa.select(scalar_series.c.open_body).where(scalar_series.c.id == series)))


def _blocks(session: Session, owner: str, wanted: Wanted) -> Iterator[Block[Scalar]]:
    for order, series in enumerate(series_of(session, owner, wanted)):
        outline = sa.select(scalar_chunk.c.id, scalar_chunk.c.first_iteration, scalar_chunk.c.last_iteration)
        for row in session.all(outline.where(scalar_chunk.c.series == series.id)):
            low, high = row["first_iteration"], row["last_iteration"]
            yield Block(low=low, high=high, order=order, read=_ChunkReader(session, series, row["id"]))
        if points := _open_points(session, series.id):
            low, high = points[0].iteration, points[-1].iteration
            yield Block(low=low, high=high, order=order, read=_OpenReader(series, points))


@dataclass(frozen=True, slots=True)
class _ChunkReader:
    session: Session
    series: Series
    chunk: int

    def __call__(self) -> list[tuple[int, Scalar]]:
        body = self.session.value(sa.select(scalar_chunk.c.body).where(scalar_chunk.c.id == self.chunk))
        return _named(self.series, decode(body))


@dataclass(frozen=True, slots=True)
class _OpenReader:
    series: Series
    points: Sequence[Point]

    def __call__(self) -> list[tuple[int, Scalar]]:
        return _named(self.series, self.points)


def _named(series: Series, points: Iterable[Point]) -> list[tuple[int, Scalar]]:
    return [
        (
            point.iteration,
            Scalar(metric=series.metric, variant=series.variant, worker=series.worker, point=point),
        )
        for point in points
    ]


def _only(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    if wanted is None:
        return []
    return [scalar_series.c.metric_hash.in_([name_hash(metric) for metric in wanted])]


def _is_wanted(row: Mapping[Any, Any], wanted: Wanted) -> bool:
    if wanted is None:
        return True
    variants = wanted.get(str(row["metric"]), ())
    return not variants or row["variant"] in variants


def _last(row: Mapping[Any, Any]) -> LastMetric:
    return LastMetric(**{name: row[name] for name in _SUMMARY})


def _series(row: Mapping[Any, Any], *, fresh: bool = False) -> Series:
    return Series(
        id=row["id"],
        metric=row["metric"],
        variant=row["variant"],
        worker=row["worker"],
        x_axis_label=row["x_axis_label"],
        last=_last(row),
        points=row["points"],
        fresh=fresh,
    )
