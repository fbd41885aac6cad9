"""What is written about workers: entries behind the memory, runtime properties at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..announcements import PropertiesChanged
from .database import Session, Transaction
from .schema import worker, worker_property

_FORGET = sa.delete(worker).where(worker.c.company == sa.bindparam("of"), worker.c.id == sa.bindparam("who"))
_PROPERTIES = (
    sa.select(worker_property.c.key, worker_property.c.value, worker_property.c.expires_at)
    .where(worker_property.c.company == sa.bindparam("of"), worker_property.c.worker == sa.bindparam("who"))
    .order_by(worker_property.c.key)
)


def load(tx: Session) -> list[tuple[str, str, dict[str, Any]]]:
    """Every entry that has not expired."""
    rows = tx.all(sa.select(worker).where(worker.c.expires_at > tx.moment))
    return [(row["company"], row["id"], row["entry"]) for row in rows]


def save(tx: Transaction, rows: Sequence[Mapping[str, Any]], gone: Iterable[tuple[str, str]]) -> None:
    """Write entries and delete others."""
    stale = [*gone, *((row["company"], row["id"]) for row in rows)]
    if stale:
        tx.execute(_FORGET, [{"of": company, "who": worker_id} for company, worker_id in stale])
    if rows:
        tx.execute(sa.insert(worker), list(rows))


def delete(tx: Transaction, company: str, ids: Sequence[str]) -> None:
    """Delete entries."""
    tx.execute(sa.delete(worker).where(worker.c.company == company, worker.c.id.in_(ids)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """A runtime property; `expires_at` in seconds since the epoch, None: until it is deleted."""

    key: str
    value: str
    expires_at: float | None

    def is_in_force(self, moment: float) -> bool:
        """Whether its time is not over."""
        return self.expires_at is None or self.expires_at > moment

    def on_the_wire(self, moment: float) -> dict[str, Any]:
        """`{key, value, expiry?}` with the seconds that are left."""
        shown: dict[str, Any] = {"key": self.key, "value": self.value}
        if self.expires_at is not None:
            shown["expiry"] = max(round(self.expires_at - moment), 1)
        return shown


def properties(tx: Session, company: str, worker_id: str) -> list[Property]:
    """The runtime properties in force, by key."""
    rows = tx.execute(_PROPERTIES, {"of": company, "who": worker_id}).mappings()
    return [known for known in (Property(**row) for row in rows) if known.is_in_force(tx.moment)]


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
    tx.announce(PropertiesChanged(company, worker_id))


def property_value(tx: Session, company: str, worker_id: str, key: str) -> str | None:
    """One property in force."""
    return next((known.value for known in properties(tx, company, worker_id) if known.key == key), None)


def forget_expired_properties(tx: Transaction) -> None:
    """Delete properties whose time is over."""
    tx.execute(sa.delete(worker_property).where(worker_property.c.expires_at <= tx.moment))
