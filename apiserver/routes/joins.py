"""References as the `get_all_ex` forms show them: an object with the name instead of an id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ..identity import COMPANY_NAME
from ..query import Document
from ..store.database import Session
from ..store.schema import project, queue, task, user

_NAMED = {"project": project, "user": user, "parent": task}


def expanded(tx: Session, documents: list[Document]) -> list[Document]:
    """The same documents with `project`, `user`, `parent`, `company` and `execution.queue` joined."""
    for field, table in _NAMED.items():
        names = _names(tx, table, (document.get(field) for document in documents))
        for document in documents:
            if isinstance(document.get(field), str):
                document[field] = names.get(document[field], {"id": document[field]})
    queues = _names(tx, queue, (document.get("execution", {}).get("queue") for document in documents))
    for document in documents:
        if isinstance(document.get("company"), str):
            document["company"] = {"id": document["company"], "name": COMPANY_NAME}
        waiting = document.get("execution", {}).get("queue")
        if isinstance(waiting, str):
            shown = queues.get(waiting, {"id": waiting})
            document["execution"] = {**document["execution"], "queue": shown}
    return documents


def _names(tx: Session, table: sa.Table, ids: Iterable[Any]) -> dict[str, Document]:
    wanted = list(dict.fromkeys(found for found in ids if isinstance(found, str)))
    if not wanted:
        return {}
    rows = tx.all(sa.select(table.c.id, table.c.name).where(table.c.id.in_(wanted)))
    return {row["id"]: dict(row) for row in rows}
