"""Plots, images, vectors and scalars without an iteration: each its own compressed row, replaced when reported again.

Of plots and images the newest hundred iterations per metric and variant are kept, because a training loop that reports
a plot in each iteration would otherwise fill the disk with pictures nobody looks at.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..events.incoming import Event, EventType
from ..wire import without_nan
from .database import Session, Transaction
from .event_tables import event_document as document
from .scalars import Wanted

KEPT_ITERATIONS = 100
_IDS_PER_QUESTION = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A document without its content."""

    id: int
    metric: str
    variant: str
    iteration: int
    timestamp: int


def add_documents(tx: Transaction, events: Sequence[Event]) -> None:
    """Store events, each in the place of an earlier one with the same identity."""
    if not events:
        return
    rows = {(event.owner, event.type, event.digest.hex()): event for event in events}
    keys = [{"o": owner, "t": kind, "d": digest} for owner, kind, digest in rows]
    same = (
        (document.c.owner == sa.bindparam("o"))
        & (document.c.type == sa.bindparam("t"))
        & (document.c.digest == sa.bindparam("d"))
    )
    tx.execute(document.delete().where(same), keys)
    tx.execute(document.insert(), [_row_of(event) for event in rows.values()])
    for owner, kind, metric, variant in dict.fromkeys((e.owner, e.type, e.metric, e.variant) for e in rows.values()):
        if kind in (EventType.PLOT, EventType.IMAGE):
            _forget_old(tx, owner, kind, metric, variant)


def outlines(session: Session, owner: str, kind: EventType, wanted: Wanted = None) -> list[Outline]:
    """List the documents of one type in the order of iterations, then names."""
    question = sa.select(
        document.c.id, document.c.metric, document.c.variant, document.c.iteration, document.c.timestamp
    ).where(document.c.owner == owner, document.c.type == kind)
    if wanted is not None:
        question = question.where(document.c.metric.in_(list(wanted)))
    ordered = question.order_by(document.c.iteration, document.c.metric, document.c.variant, document.c.id)
    rows = (Outline(**row) for row in session.all(ordered))
    return [row for row in rows if wanted is None or not wanted[row.metric] or row.variant in wanted[row.metric]]


def contents(session: Session, ids: Sequence[int]) -> list[dict[str, object]]:
    """Read documents as the events that clients get, in the order of `ids`."""
    found: dict[int, dict[str, object]] = {}
    for start in range(0, len(ids), _IDS_PER_QUESTION):
        question = document.select().where(document.c.id.in_(ids[start : start + _IDS_PER_QUESTION]))
        found.update((row["id"], _event_of(row)) for row in session.all(question))
    return [found[number] for number in ids if number in found]


def delete_documents(tx: Transaction, owner: str) -> int:
    """Delete all documents of a task or model; returns how many."""
    return tx.execute(document.delete().where(document.c.owner == owner)).rowcount


def _row_of(event: Event) -> Mapping[str, object]:
    return {
        "owner": event.owner,
        "type": event.type.value,
        "digest": event.digest.hex(),
        "metric": event.metric,
        "variant": event.variant,
        "iteration": event.iteration or 0,
        "timestamp": event.timestamp,
        "worker": event.worker,
        "body": zlib.compress(json.dumps(without_nan(event.content), separators=(",", ":")).encode("ascii"), 1),
    }


def _event_of(row: Mapping[Any, Any]) -> dict[str, object]:
    content: dict[str, object] = json.loads(zlib.decompress(row["body"]))
    event = {
        **content,
        "type": row["type"],
        "task": row["owner"],
        "timestamp": row["timestamp"],
        "worker": row["worker"],
        "metric": row["metric"],
        "variant": row["variant"],
        "iter": row["iteration"],
    }
    if row["type"] == EventType.VECTOR and "values" in event:
        event["value"] = event.pop("values")
    return event


def _forget_old(tx: Transaction, owner: str, kind: str, metric: str, variant: str) -> None:
    here = (
        (document.c.owner == owner)
        & (document.c.type == kind)
        & (document.c.metric == metric)
        & (document.c.variant == variant)
    )
    newest = sa.select(document.c.iteration).where(here).distinct().order_by(document.c.iteration.desc())
    oldest_kept = tx.value(newest.offset(KEPT_ITERATIONS - 1).limit(1))
    if oldest_kept is not None:
        tx.execute(document.delete().where(here, document.c.iteration < oldest_kept))
