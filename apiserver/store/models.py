"""Models: records about files somewhere, created and used by tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from .. import errors, states
from ..identity import new_id
from ..query import Document, Entity
from . import events, projects
from .database import Row, Session, Transaction
from .schema import model, task


def document(row: Row, fields: Iterable[str]) -> Document:
    """The wire form of these fields; what is not set is left out."""
    result = {name: row[name] for name in fields if row[name] is not None}
    for name in ("tags", "system_tags"):
        if name in result:
            result[name] = sorted(result[name])
    return result


MODELS = Entity(
    table=model,
    fields={column.name: (column,) for column in model.c},
    source=lambda _used: model,
    document=document,
    patterns=frozenset({"name", "comment"}),
    lists=frozenset(
        {"id", "tags", "system_tags", "framework", "uri", "user", "project", "task", "parent", "metadata.*"}
    ),
    ranges=frozenset({"created", "last_iteration", "last_metrics.*"}),
    dates=frozenset({"last_update", "last_change"}),
    equal=frozenset({"ready"}),
    search=frozenset({"id", "name", "comment"}),
    tolerated=frozenset({"company_origin"}),
)


def row(tx: Session, model_id: str, company: str) -> Row:
    """The model; 400/201 when there is none."""
    found = tx.one(sa.select(model).where(model.c.id == model_id, model.c.company == company))
    if found is None:
        raise errors.INVALID_MODEL_ID(id=model_id, company=company)
    return found


def find(tx: Session, model_id: str, company: str) -> Document:
    """The model in wire form."""
    return document(row(tx, model_id, company), model.c.keys())


def create(tx: Transaction, changes: Mapping[str, Any], *, company: str, user: str) -> str:
    """A new model; `changes` are stored fields."""
    _check_references(tx, changes, company)
    model_id, now = new_id(), tx.now
    blank: dict[str, Any] = {
        **{name: [] for name in ("tags", "system_tags")},
        **{name: {} for name in ("design", "labels", "last_metrics", "metric_stats", "metadata", "ui_cache")},
        "user": user,
        "created": now,
        "last_update": now,
        "last_change": now,
        "last_changed_by": user,
        "last_iteration": 0,
        "ready": True,
    }
    tx.execute(sa.insert(model).values(blank | dict(changes) | {"id": model_id, "company": company}))
    return model_id


def edit(tx: Transaction, model_id: str, changes: Mapping[str, Any], *, company: str, user: str) -> Document:
    """Write fields of a model that exists; returns what was written."""
    row(tx, model_id, company)
    _check_references(tx, changes, company)
    if not changes:
        return {}
    values = {**changes, "last_update": tx.now, "last_change": tx.now, "last_changed_by": user}
    tx.execute(sa.update(model).where(model.c.id == model_id).values(values))
    return {name: value for name, value in values.items() if value is not None}


def _check_references(tx: Session, changes: Mapping[str, Any], company: str) -> None:
    project, creator = changes.get("project"), changes.get("task")
    if project and not projects.exists(tx, project, company):
        raise errors.INVALID_PROJECT_ID(id=project, company=company)
    known = sa.select(task.c.id).where(task.c.id == creator, task.c.company == company)
    if creator and not creator.startswith("__DELETED__") and tx.value(known) is None:
        raise errors.INVALID_TASK_ID(id=creator, company=company)


def delete(tx: Transaction, model_id: str, company: str, *, force: bool) -> Document:
    """Remove a model; without force not one that tasks use. Returns `{deleted, url}`."""
    found = row(tx, model_id, company)
    users = _tasks_with(tx, model_id, company)
    if users and not force:
        raise errors.MODEL_IN_USE("use force", num_tasks=len(users))
    creator = sa.select(task.c.status).where(task.c.id == found["task"])
    if not force and tx.value(creator) == states.PUBLISHED:
        raise errors.MODEL_CREATING_TASK_EXISTS("use force", model=model_id, task=found["task"])
    for user in users:
        _bury(tx, user, model_id)
    events.delete_for_model(tx, model_id)
    tx.execute(sa.delete(model).where(model.c.id == model_id))
    return {"deleted": True, "url": found["uri"]}


def _tasks_with(tx: Session, model_id: str, company: str) -> list[Row]:
    mentions = sa.cast(task.c.models, sa.Text).contains(model_id)
    rows = tx.all(sa.select(task.c.id, task.c.models).where(task.c.company == company, mentions))
    return [found for found in rows if any(item["model"] == model_id for item in found["models"].get("input", []))]


def _bury(tx: Transaction, user: Row, model_id: str) -> None:
    buried = [
        {**item, "model": f"__DELETED__{model_id}"} if item["model"] == model_id else item
        for item in user["models"]["input"]
    ]
    models = {**user["models"], "input": buried}
    tx.execute(sa.update(task).where(task.c.id == user["id"]).values(models=models))


def for_events(tx: Session, model_ids: Iterable[str], company: str) -> dict[str, Row]:
    """`{id, ready}` of the models that a batch of events is about."""
    where = (model.c.id.in_(list(model_ids)), model.c.company == company)
    return {found["id"]: found for found in tx.all(sa.select(model.c.id, model.c.ready).where(*where))}


def metrics(tx: Session, model_id: str) -> tuple[Document, Document]:
    """`last_metrics` and `metric_stats` as they are."""
    found = tx.one(sa.select(model.c.last_metrics, model.c.metric_stats).where(model.c.id == model_id))
    return (found["last_metrics"], found["metric_stats"]) if found else ({}, {})


def touch_by_events(
    tx: Transaction,
    model_id: str,
    *,
    iteration: int | None = None,
    last_metrics: Document | None = None,
    metric_stats: Document | None = None,
) -> None:
    """What a batch of model events says about the model."""
    known = tx.value(sa.select(model.c.last_iteration).where(model.c.id == model_id))
    values: dict[str, Any] = {"last_update": tx.now, "last_change": tx.now}
    if iteration is not None and known is not None and iteration > known:
        values["last_iteration"] = iteration
    maps = {"last_metrics": last_metrics, "metric_stats": metric_stats}
    values |= {name: value for name, value in maps.items() if value is not None}
    tx.execute(sa.update(model).where(model.c.id == model_id).values(values))


def frameworks(tx: Session, company: str) -> list[str]:
    """The frameworks in use."""
    used = sa.select(model.c.framework).where(model.c.company == company, model.c.framework.is_not(None))
    return sorted(tx.execute(used.distinct()).scalars())
