"""`order_by`: in SQL when every path is a plain column of the main table, otherwise in Python.

Both ways agree: records without a value come last in either direction, and the id decides between equals, so that pages
never overlap.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql.elements import ColumnElement

from ..fields import Fields
from .entity import Document, Entity
from .paths import dig, names_in, path_of

Order = tuple[tuple[str, bool], ...]  # path, descending


def order_of(data: Fields, entity: Entity) -> Order:
    """Read the order; a path that begins with `@` is accepted and orders nothing."""
    names = names_in(data.get("order_by", []), "order_by")
    order = [(name.removeprefix("-"), name.startswith("-")) for name in names if name]
    for name, _descending in order:
        entity.require(name, "order_by")
    return tuple((name, descending) for name, descending in order if not name.startswith("@"))


def sql_order(entity: Entity, order: Order) -> list[ColumnElement[Any]] | None:
    """The order in SQL, records without a value last; None when a path is not a plain column of the main table."""
    clauses: list[ColumnElement[Any]] = []
    for name, descending in order:
        column = entity.column(name)
        if column is None or getattr(column, "table", entity.table) is not entity.table:
            return None
        clauses += [column.is_(None), column.desc() if descending else column.asc()]
    if not clauses and "created" in entity.table.c:
        clauses.append(entity.table.c.created.asc())
    return [*clauses, entity.table.c.id.asc()]


def sort(documents: list[Document], order: Order) -> None:
    """The same order in Python, in place."""
    documents.sort(key=lambda doc: (doc.get("created") or "", doc["id"]) if not order else doc["id"])
    for name, descending in reversed(order):
        _sort_by(documents, path_of(name), descending)


def _sort_by(documents: list[Document], path: tuple[str, ...], descending: bool) -> None:
    """Stable; numbers before text; without a value last, whichever the direction."""
    present: list[tuple[Any, Document]] = []
    missing: list[Document] = []
    for document in documents:
        value = dig(document, path)
        if isinstance(value, int | float | str):
            present.append(((isinstance(value, str), value), document))
        else:
            missing.append(document)
    present.sort(key=lambda pair: pair[0], reverse=descending)
    documents[:] = [*(document for _value, document in present), *missing]
