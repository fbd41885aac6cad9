"""What is written about workers: entries behind the memory, runtime properties at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from .database import Session, Transaction
from .schema import worker, worker_property


def load(tx: Session) -> list[tuple[str, str, dict[str, Any]]]:
    """Every entry that has not expired."""
    rows = tx.all(sa.select(worker).where(worker.c.expires_at > tx.moment))
    return [(row["company"], row["id"], row["entry"]) for row in rows]


def save(tx: Transaction, rows: Sequence[Mapping[str, Any]], gone: Iterable[tuple[str, str]]) -> None:
    """Write entries and delete others."""
    stale = [*gone, *((row["company"], row["id"]) for row in rows)]
    for company, worker_id in stale:
        tx.execute(sa.delete(worker).where(worker.c.company == company, worker.c.id == worker_id))
    if rows:
        tx.execute(sa.insert(worker), list(rows))


def delete(tx: Transaction, company: str, ids: Sequence[str]) -> None:
    """Delete entries."""
    tx.execute(sa.delete(worker).where(worker.c.company == company, worker.c.id.in_(ids)))


def properties(tx: Session, company: str, worker_id: str) -> list[dict[str, Any]]:
    """The runtime properties in force: `[{key, value, expiry?}]` with the seconds that are left."""
    where = (worker_property.c.company == company, worker_property.c.worker == worker_id)
    alive = sa.or_(worker_property.c.expires_at.is_(None), worker_property.c.expires_at > tx.moment)
    result = []
    for row in tx.all(sa.select(worker_property).where(*where, alive).order_by(worker_property.c.key)):
        item = {"key": row["key"], "value": row["value"]}
        if row["expires_at"] is not None:
            item["expiry"] = max(round(row["expires_at"] - tx.moment), 1)
        result.append(item)
    return result


def set_property(tx: Transaction, company: str, worker_id: str, key: str, value: str, *, expiry: float | None) -> None:
    """Set a property for some seconds, or until it is deleted; zero seconds delete it."""
    where = (
        worker_property.c.company == company,
        worker_property.c.worker == worker_id,
        worker_property.c.key == key,
    )
    tx.execute(sa.delete(worker_property).where(*where))
    if expiry is None or expiry > 0:
        expires_at = None if expiry is None else tx.moment + expiry
        values = {"company": company, "worker": worker_id, "key": key, "value": value, "expires_at": expires_at}
        tx.execute(sa.insert(worker_property).values(**values))


def property_value(tx: Session, company: str, worker_id: str, key: str) -> str | None:
    """One property in force."""
    return next((item["value"] for item in properties(tx, company, worker_id) if item["key"] == key), None)


def forget_expired_properties(tx: Transaction) -> None:
    """Delete properties whose time is over."""
    tx.execute(sa.delete(worker_property).where(worker_property.c.expires_at <= tx.moment))
