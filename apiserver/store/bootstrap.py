"""What exists from the start: the company's default queues and the user that the first credentials belong to."""

from __future__ import annotations

import sqlalchemy as sa

from ..identity import COMPANY
from . import queues, users
from .database import Transaction
from .schema import setting

OWNER = "gpufleet"


def ensure(tx: Transaction) -> None:
    """Create it in a new database; what somebody removed later stays removed."""
    if tx.value(sa.select(setting.c.value).where(setting.c.name == "created")) is not None:
        return
    owner = users.add_user(tx, name=OWNER, role="admin", given_name="Fleet", family_name="Owner")
    queues.create(tx, "default", company=COMPANY, user=owner, system_tags=[queues.DEFAULT_TAG])
    queues.create(tx, "services", company=COMPANY, user=owner)
    tx.execute(sa.insert(setting).values(name="created", value=tx.now))


def owner(tx: Transaction) -> str:
    """The user that credentials of the ready configuration file belong to."""
    return users.add_user(tx, name=OWNER, role="admin")
