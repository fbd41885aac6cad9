"""Tasks: finding, creating, editing, cloning and deleting them. Status changes live in `task_status`.

A task is spread over three tables (see `schema`); everybody else sees one document in the form of the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from .. import clock, errors, states
from ..announcements import StatusChanged
from ..identity import new_id
from ..query import Document, Entity
from . import events, projects, queues
from .database import Row, Session, Transaction
from .schema import lease, model, task, task_body, task_metrics

DELETED_PREFIX = "__DELETED__"

_FIELDS: dict[str, tuple[ColumnElement[Any], ...]] = {
    **{column.name: (column,) for column in task.c if column.name not in {"execution_queue", "enqueue_status"}},
    **{column.name: (column,) for column in task_body.c if column.name not in {"id", "execution"}},
    **{column.name: (column,) for column in task_metrics.c if column.name != "id"},
    "execution": (task_body.c.execution, task.c.execution_queue),
}

_JOINED = {table.name: table for table in (task_body, task_metrics)}


def _source(used: set[str]) -> FromClause:
    source: FromClause = task
    for name, table in _JOINED.items():
        if name in used:
            source = source.join(table, table.c.id == task.c.id)
    return source


def document(row: Row, fields: Iterable[str]) -> Document:
    """The wire form of these fields; what is not set is left out."""
    result: Document = {}
    for name in fields:
        if name not in _FIELDS:
            continue
        value = row[name]
        if name == "execution":
            value = _execution(value, row["execution_queue"])
        elif name in {"tags", "system_tags"}:
            value = sorted(value)
        elif name == "models":
            value = {"input": value.get("input", []), "output": value.get("output", [])}
        if value is not None:
            result[name] = value
    return result


def _execution(stored: Document, queue: str | None) -> Document:
    execution = {
        **stored,
        "artifacts": sorted(stored.get("artifacts", ()), key=lambda item: (item["key"], item["mode"])),
    }
    if queue:
        execution["queue"] = queue
    return execution


TASKS = Entity(
    table=task,
    fields=_FIELDS,
    source=_source,
    document=document,
    columns={"execution.queue": task.c.execution_queue},
    patterns=frozenset({"name", "comment", "report"}),
    lists=frozenset(
        {
            "id",
            "user",
            "tags",
            "system_tags",
            "type",
            "status",
            "project",
            "parent",
            "hyperparams.*",
            "execution.queue",
            "models.input.model",
        }
    ),
    ranges=frozenset({"created", "started", "active_duration", "last_iteration", "last_metrics.*"}),
    dates=frozenset({"status_changed", "last_update", "last_change"}),
    equal=frozenset({"runtime.*"}),
    search=frozenset({"id", "name", "comment"}),
    tolerated=frozenset(
        {"company_origin", "children_count", "input", "last_changed", "unique_metrics", "estimated_tag"}
    ),
    choices={"status": states.STATUSES},
)


# --- finding ---


def find(tx: Session, task_id: str, company: str) -> Document:
    """The whole task; 400/101 when there is none."""
    row = tx.one(_whole().where(task.c.id == task_id, task.c.company == company))
    if row is None:
        raise errors.INVALID_TASK_ID(id=task_id, company=company)
    return document(row, _FIELDS)


def row(tx: Session, task_id: str, company: str) -> Row:
    """The plain columns of the task, for decisions; 400/101 when there is none."""
    found = tx.one(sa.select(task).where(task.c.id == task_id, task.c.company == company))
    if found is None:
        raise errors.INVALID_TASK_ID(id=task_id, company=company)
    return found


def body(tx: Session, task_id: str) -> Row:
    """The large fields of a task that exists."""
    found = tx.one(sa.select(task_body).where(task_body.c.id == task_id))
    if found is None:
        raise errors.MISSING_DATA("task without a body", task=task_id)
    return found


def existing(tx: Session, task_ids: Sequence[str], company: str) -> list[str]:
    """Those of the ids that exist; for replies that must name the others."""
    statement = sa.select(task.c.id).where(task.c.id.in_(task_ids), task.c.company == company)
    return list(tx.execute(statement).scalars())


def _whole() -> sa.Select[Any]:
    columns = dict.fromkeys(column for columns in _FIELDS.values() for column in columns)
    return sa.select(*columns).select_from(_source(set(_JOINED)))


# --- creating and editing ---


def create(tx: Transaction, changes: Mapping[str, Any], *, company: str, user: str) -> str:
    """A new draft; `changes` are wire fields that were checked by `task_fields`."""
    _check_references(tx, changes, company)
    task_id = new_id()
    values = _defaults(tx, user) | _columns(task, changes)
    tx.execute(sa.insert(task).values(values | {"id": task_id, "company": company}))
    tx.execute(sa.insert(task_body).values(_blank(task_body) | _columns(task_body, changes) | {"id": task_id}))
    tx.execute(sa.insert(task_metrics).values(id=task_id, last_metrics={}, metric_stats={}))
    projects.touch(tx, values.get("project"))
    return task_id


def _defaults(tx: Transaction, user: str) -> dict[str, Any]:
    now = tx.now
    return _blank(task) | {
        "user": user,
        "type": "training",
        "status": states.CREATED,
        "status_reason": "",
        "status_message": "",
        "status_changed": now,
        "created": now,
        "last_update": now,
        "last_change": now,
        "last_changed_by": user,
        "last_iteration": 0,
    }


def _blank(table: sa.Table) -> dict[str, Any]:
    """Empty values for columns that are never null (SQLAlchemy's own defaults are shared between rows)."""
    return {
        column.name: column.default.arg(None) if column.default.is_callable else column.default.arg  # type: ignore[attr-defined]
        for column in table.c
        if column.default is not None
    }


def _columns(table: sa.Table, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name in table.c}


_QUIET_FIELDS = frozenset({"name", "tags", "system_tags", "comment", "project", "parent"})


def edit(tx: Transaction, task_id: str, changes: Mapping[str, Any], *, company: str, user: str) -> Document:
    """Write fields of a task that exists; returns what was written, in wire form."""
    if not changes:
        return {}
    _check_references(tx, changes, company)
    stamps: dict[str, Any] = {"last_change": tx.now, "last_changed_by": user}
    if not _QUIET_FIELDS.issuperset(changes):
        stamps["last_update"] = tx.now
    tx.execute(sa.update(task).where(task.c.id == task_id).values(_columns(task, changes) | stamps))
    large = _columns(task_body, changes)
    if large:
        tx.execute(sa.update(task_body).where(task_body.c.id == task_id).values(large))
    if {"status_message", "status"} & changes.keys():
        tx.announce(StatusChanged(task_id))
    projects.touch(tx, changes.get("project"))
    return {**changes, **stamps}


def _check_references(tx: Session, changes: Mapping[str, Any], company: str) -> None:
    project = changes.get("project")
    if project and not projects.exists(tx, project, company):
        raise errors.INVALID_PROJECT_ID(id=project, company=company)
    parent = changes.get("parent")
    if parent and not parent.startswith(DELETED_PREFIX) and not existing(tx, [parent], company):
        raise errors.INVALID_TASK_ID("parent", id=parent, company=company)


def ping(tx: Transaction, task_id: str, company: str) -> None:
    """A sign of life; unknown tasks are none of our business."""
    found = tx.one(sa.select(task.c.status, task.c.started).where(task.c.id == task_id, task.c.company == company))
    if found is not None:
        _sign_of_life(tx, task_id, found, {})


def _sign_of_life(tx: Transaction, task_id: str, found: Row, more: dict[str, Any]) -> None:
    values: dict[str, Any] = {"last_update": tx.now, **more}
    duration = active_duration(tx, found)
    if duration is not None:
        values["active_duration"] = duration
    tx.execute(sa.update(task).where(task.c.id == task_id).values(values))
    queues.end_lease(tx, task_id)


def active_duration(tx: Session, found: Row) -> int | None:
    """Seconds since the start of a task that runs."""
    if found["status"] != states.IN_PROGRESS or not found["started"]:
        return None
    return max(int(tx.moment - clock.seconds(found["started"])), 0)


def report_from_worker(tx: Transaction, task_id: str, worker: str, company: str) -> Document:
    """A worker says that it runs this task: `{id, name, project}`; 400/101 for an unknown task."""
    found = row(tx, task_id, company)
    values = {"last_worker": worker, "last_worker_report": tx.now, "last_update": tx.now, "last_change": tx.now}
    tx.execute(sa.update(task).where(task.c.id == task_id).values(values))
    queues.end_lease(tx, task_id)
    return {"id": found["id"], "name": found["name"], "project": found["project"]}


def names(tx: Session, task_ids: Iterable[str]) -> dict[str, Document]:
    """`{id, name, started, status, last_iteration, project}` of each task, for lists of other things."""
    columns = (task.c.id, task.c.name, task.c.started, task.c.status, task.c.last_iteration, task.c.project)
    wanted = list(dict.fromkeys(task_ids))
    return {found["id"]: dict(found) for found in tx.all(sa.select(*columns).where(task.c.id.in_(wanted)))}


# --- cloning ---

_CLONED = ("type", "script", "container", "hyperparams", "configuration")
_NOT_CLONED_TAGS = frozenset({"development", "archived"})


def clone(tx: Transaction, task_id: str, overrides: Mapping[str, Any], *, company: str, user: str) -> str:
    """A draft with the same content: without queue, runtime, metrics, outputs and artifacts of its own."""
    source = find(tx, task_id, company)
    execution = {name: value for name, value in source["execution"].items() if name != "queue"}
    execution["artifacts"] = [item for item in execution["artifacts"] if item["mode"] == "input"]
    changes = {
        "name": source["name"],
        "comment": source.get("comment"),
        "project": source.get("project"),
        "parent": source.get("parent") or task_id,
        "tags": source["tags"],
        "system_tags": [tag for tag in source["system_tags"] if tag not in _NOT_CLONED_TAGS],
        "execution": execution,
        "models": {"input": source["models"]["input"], "output": []},
        "output": {key: value for key, value in source["output"].items() if key == "destination"},
        **{name: source[name] for name in _CLONED},
        **overrides,
    }
    if changes["parent"].startswith(DELETED_PREFIX) and "parent" not in overrides:
        changes["parent"] = task_id
    return create(tx, {key: value for key, value in changes.items() if value is not None}, company=company, user=user)


# --- forgetting ---

_NOT_AFTER_RESET: dict[str, Any] = {
    "started": None,
    "completed": None,
    "published": None,
    "active_duration": None,
    "last_worker": None,
    "last_worker_report": None,
    "enqueue_status": None,
    "execution_queue": None,
    "last_iteration": 0,
    "runtime": {},
}


def forget_results(tx: Transaction, found: Row, *, clear_all: bool, delete_models: bool) -> list[str]:
    """What a reset removes besides the status; returns the ids of draft output models that were deleted."""
    task_id = found["id"]
    events.delete_for_task(tx, task_id)
    tx.execute(sa.update(task_metrics).where(task_metrics.c.id == task_id).values(last_metrics={}, metric_stats={}))
    kept = {"input": found["models"].get("input", []), "output": []}
    tx.execute(sa.update(task).where(task.c.id == task_id).values(**_NOT_AFTER_RESET, models=kept))
    stored = body(tx, task_id)
    inputs = [item for item in stored["execution"].get("artifacts", ()) if item["mode"] == "input"]
    changes: dict[str, Any] = {"execution": {**stored["execution"], "artifacts": inputs}}
    if clear_all:
        changes = {"execution": {}, "script": {}}
    tx.execute(sa.update(task_body).where(task_body.c.id == task_id).values(changes))
    return _delete_draft_models(tx, task_id) if delete_models else []


def _delete_draft_models(tx: Transaction, task_id: str) -> list[str]:
    drafts = sa.and_(model.c.task == task_id, model.c.ready.is_(False))
    deleted = list(tx.execute(sa.select(model.c.id).where(drafts)).scalars())
    for model_id in deleted:
        events.delete_for_model(tx, model_id)
    tx.execute(sa.delete(model).where(drafts))
    return deleted


def delete(tx: Transaction, task_id: str, *, force: bool, delete_models: bool, company: str) -> Document:
    """Remove a task with its events, models and queue entry; its children keep a name for where they came from."""
    found = row(tx, task_id, company)
    _require_deletable(tx, found, force=force)
    queues.remove(tx, task_id)
    events.delete_for_task(tx, task_id)
    deleted_models = _delete_draft_models(tx, task_id) if delete_models else []
    buried = f"{DELETED_PREFIX}{task_id}"
    children = tx.execute(sa.update(task).where(task.c.parent == task_id).values(parent=buried)).rowcount
    models = tx.execute(sa.update(model).where(model.c.task == task_id).values(task=buried)).rowcount
    for table in (task_metrics, task_body, task):
        tx.execute(sa.delete(table).where(table.c.id == task_id))
    tx.execute(sa.delete(lease).where(lease.c.task == task_id))
    tx.announce(StatusChanged(task_id))
    return {"updated_children": children, "updated_models": models, "deleted_models": len(deleted_models)}


def _require_deletable(tx: Session, found: Row, *, force: bool) -> None:
    if force:
        return
    if found["status"] != states.CREATED and "archived" not in found["system_tags"]:
        raise errors.TASK_CANNOT_BE_DELETED(
            "status is not created, use force", task=found["id"], status=found["status"]
        )
    published = sa.and_(task.c.parent == found["id"], task.c.status == states.PUBLISHED)
    if tx.value(sa.select(task.c.id).where(published).limit(1)) is not None:
        raise errors.TASK_CANNOT_BE_DELETED("has published children, use force", task=found["id"])
    ready = sa.and_(model.c.task == found["id"], model.c.ready.is_(True))
    if tx.value(sa.select(model.c.id).where(ready).limit(1)) is not None:
        raise errors.TASK_CANNOT_BE_DELETED("has published models, use force", task=found["id"])


def files_of(tx: Session, task_id: str) -> list[str]:
    """URLs of the output artifacts of a task."""
    artifacts = body(tx, task_id)["execution"].get("artifacts", ())
    return [item["uri"] for item in artifacts if item.get("uri") and item["mode"] == "output"]


# --- events ---


def for_events(tx: Session, task_ids: Iterable[str], company: str) -> dict[str, Row]:
    """`{id, status}` of the tasks that a batch of events is about."""
    where = (task.c.id.in_(list(task_ids)), task.c.company == company)
    return {found["id"]: found for found in tx.all(sa.select(task.c.id, task.c.status).where(*where))}


def metrics(tx: Session, task_id: str) -> tuple[Document, Document]:
    """`last_metrics` and `metric_stats` as they are."""
    found = tx.one(sa.select(task_metrics).where(task_metrics.c.id == task_id))
    return (found["last_metrics"], found["metric_stats"]) if found else ({}, {})


def touch_by_events(
    tx: Transaction,
    task_id: str,
    *,
    iteration: int | None = None,
    last_metrics: Document | None = None,
    metric_stats: Document | None = None,
) -> None:
    """What a batch of events says about its task: a sign of life, and how far it got."""
    columns = (task.c.status, task.c.started, task.c.last_iteration)
    found = tx.one(sa.select(*columns).where(task.c.id == task_id))
    if found is None:
        return
    more: dict[str, Any] = {"last_change": tx.now}
    if iteration is not None and iteration > found["last_iteration"]:
        more["last_iteration"] = iteration
    _sign_of_life(tx, task_id, found, more)
    maps = {"last_metrics": last_metrics, "metric_stats": metric_stats}
    changed = {name: value for name, value in maps.items() if value is not None}
    if changed:
        tx.execute(sa.update(task_metrics).where(task_metrics.c.id == task_id).values(changed))


def raise_iteration(tx: Transaction, task_id: str, iteration: int) -> None:
    """The task got at least this far."""
    behind = sa.and_(task.c.id == task_id, task.c.last_iteration < iteration)
    tx.execute(sa.update(task).where(behind).values(last_iteration=iteration))


def set_execution_queue(tx: Transaction, task_id: str, queue_id: str) -> None:
    """Remember the queue that a task was put into by hand."""
    tx.execute(sa.update(task).where(task.c.id == task_id).values(execution_queue=queue_id))
