"""From a query to documents: the one place of this package that reads the database.

When SQL can say everything, one statement reads the page. Otherwise the ids of the page are found first, on only the
columns that the tests and the order need, and then the full records of just those ids are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from ..store.database import Row, Session
from .condition import Condition
from .entity import Document, Entity
from .order import sort, sql_order
from .paths import field_of
from .projection import project
from .request import Query


def fetch(tx: Session, entity: Entity, query: Query, *where: ColumnElement[bool]) -> list[Document]:
    """The page of records that a query asks for, projected."""
    conditions = (*where, *(condition.sql for condition in query.conditions if condition.sql is not None))
    tests = [condition for condition in query.conditions if condition.sql is None]
    order = sql_order(entity, query.order)
    fields = _fields_to_load(entity, query)
    if not tests and order is not None:
        rows: Sequence[Row] = tx.all(
            _select(entity, fields, conditions).order_by(*order).offset(query.offset).limit(query.limit)
        )
    else:
        ids = _chosen_in_python(tx, entity, query, tests, conditions)
        rows = _in_order(tx.all(_select(entity, fields, [entity.table.c.id.in_(ids)])), ids) if ids else []
    return [project(entity.document(row, fields), query.only, query.without) for row in rows]


def _fields_to_load(entity: Entity, query: Query) -> list[str]:
    if not query.only:
        return [name for name in entity.fields if name not in query.without]
    wanted = {"id", *(field_of(name) for name in query.only)}
    return [name for name in entity.fields if name in wanted]


def _select(entity: Entity, fields: Iterable[str], conditions: Iterable[ColumnElement[bool]]) -> sa.Select[Any]:
    fields = set(fields)
    columns = [column for name in entity.fields if name in fields for column in entity.fields[name]]
    used = {column.table.name for column in columns if isinstance(column, sa.Column)}
    statement = sa.select(*dict.fromkeys(columns)).select_from(entity.source(used))
    return statement.where(*conditions)


def _chosen_in_python(
    tx: Session, entity: Entity, query: Query, tests: list[Condition], conditions: Iterable[ColumnElement[bool]]
) -> list[str]:
    fields = {"id", *(field_of(name) for name, _descending in query.order)}
    if "created" in entity.fields:
        fields.add("created")
    documents = _matching(tx, entity, fields, tests, conditions)
    sort(documents, query.order)
    return [doc["id"] for doc in documents[query.offset : query.offset + query.limit]]


def _matching(
    tx: Session, entity: Entity, fields: set[str], tests: list[Condition], conditions: Iterable[ColumnElement[bool]]
) -> list[Document]:
    load = fields.union(*(condition.needs for condition in tests)).intersection(entity.fields)
    documents = []
    for row in tx.execute(_select(entity, load, conditions)).mappings():
        document = entity.document(row, load)
        if all(condition.test(document) for condition in tests if condition.test):
            documents.append(document)
    return documents


def _in_order(rows: Sequence[Row], ids: list[str]) -> list[Row]:
    by_id = {row["id"]: row for row in rows}
    return [by_id[record] for record in ids if record in by_id]
