"""Tasks: asking for them, creating, editing, cloning, deleting, and keeping them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from .. import errors, states, task_fields
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document, Query, fetch, parse
from ..store import projects, tasks
from ..store.database import Session, Transaction
from ..store.schema import task
from .bulk import each
from .joins import expanded

# --- asking ---


@endpoint("tasks.get_by_id")
async def get_by_id(call: Call, data: Fields) -> Reply:
    """The whole task."""
    task_id = data.ident("task")
    found = await call.read(lambda tx: tasks.find(tx, task_id, call.company))
    return {"task": task_fields.for_old_client(found, call.version)}


@endpoint("tasks.get_by_id_ex")
async def get_by_id_ex(call: Call, data: Fields) -> Reply:
    """One task through a projection, references joined."""
    if "id" not in data:
        raise errors.MISSING_FIELDS(fields=["id"])
    query = parse(Fields({"id": [data.ident("id")], "only_fields": data.get("only_fields")}), tasks.TASKS)
    found = await call.read(lambda tx: expanded(tx, fetch(tx, tasks.TASKS, query, task.c.company == call.company)))
    if not found:
        raise errors.INVALID_TASK_ID(id=data["id"], company=call.company)
    return {"task": found[0]}


@endpoint("tasks.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """Tasks by query. With `wait` and `known` (ours), held until one of them has another status or status message."""
    query = parse(data, tasks.TASKS, scroll=call.services.scroll)
    if "wait" not in data:
        return _page(call, query, await _fetch(call, query, data))
    return _page(call, query, await _fetch_when_changed(call, query, data))


@endpoint("tasks.get_all_ex")
async def get_all_ex(call: Call, data: Fields) -> Reply:
    """Tasks by query, references joined."""
    query = parse(data, tasks.TASKS, scroll=call.services.scroll)
    return _page(call, query, await _fetch(call, query, data, join=True))


def _page(call: Call, query: Query, found: list[Document]) -> Reply:
    scroll_id = query.next_scroll_id(call.services.scroll, len(found))
    reply: Reply = {"tasks": [task_fields.for_old_client(one, call.version) for one in found]}
    return reply if scroll_id is None else {**reply, "scroll_id": scroll_id}


async def _fetch(call: Call, query: Query, data: Fields, *, join: bool = False) -> list[Document]:
    def ask(tx: Session) -> list[Document]:
        found = fetch(tx, tasks.TASKS, query, task.c.company == call.company, *_more_conditions(tx, data))
        return expanded(tx, found) if join else found

    return await call.read(ask)


def _more_conditions(tx: Session, data: Fields) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if data.get("search_hidden") is False and "id" not in data:
        conditions.append(sa.cast(task.c.system_tags, sa.Text).not_like('%"hidden"%'))
    if data.get("include_subprojects") and data.get("project"):
        wanted = data["project"] if isinstance(data["project"], list) else [data["project"]]
        conditions.append(task.c.project.in_(projects.descendants(tx, [item for item in wanted if item])))
    return conditions


async def _fetch_when_changed(call: Call, query: Query, data: Fields) -> list[Document]:
    wait = data.number("wait", least=0, most=call.services.config.max_wait_seconds)
    known = data.mapping("known")
    until = asyncio.get_running_loop().time() + wait
    with call.services.waiting.watching(known) as watcher:
        while True:
            found = await _fetch(call, query, data)
            if wait == 0 or _differs(found, known) or call.disconnected is None:
                return found
            if not await call.services.waiting.changed(watcher, until, call.disconnected):
                return found


def _differs(found: list[Document], known: Mapping[str, Any]) -> bool:
    now = {one["id"]: [one.get("status"), one.get("status_message")] for one in found}
    return any(now.get(task_id) != state for task_id, state in known.items())


@endpoint("tasks.get_types")
async def get_types(call: Call, data: Fields) -> Reply:
    """The types in use, in some projects or everywhere."""
    wanted = data.strings("projects")

    def ask(tx: Session) -> list[str]:
        where = [task.c.company == call.company]
        if wanted:
            where.append(task.c.project.in_(wanted))
        return list(tx.execute(sa.select(task.c.type).where(*where).distinct().order_by(task.c.type)).scalars())

    return {"types": await call.read(ask)}


# --- creating and editing ---


@endpoint("tasks.create")
async def create(call: Call, data: Fields) -> Reply:
    """A new draft."""
    changes = task_fields.for_create(data)
    return {"id": await call.write(lambda tx: tasks.create(tx, changes, company=call.company, user=call.user))}


@endpoint("tasks.validate")
async def validate(call: Call, data: Fields) -> Reply:
    """Whether `create` would accept this."""
    task_fields.for_create(data)
    return {}


@endpoint("tasks.edit")
async def edit(call: Call, data: Fields) -> Reply:
    """Change a draft, or with force any task."""
    task_id, force = data.ident("task"), data.flag("force", False)

    def change(tx: Transaction) -> Document:
        found = tasks.find(tx, task_id, call.company)
        if not force and found["status"] != states.CREATED:
            raise errors.INVALID_TASK_STATUS(
                "task is not a draft, use force", current_status=found["status"], expected=states.CREATED, task=task_id
            )
        changes = task_fields.for_edit(data, found)
        return tasks.edit(tx, task_id, changes, company=call.company, user=call.user)

    fields = await call.write(change)
    return {"updated": int(bool(fields)), "fields": fields}


@endpoint("tasks.update")
async def update(call: Call, data: Fields) -> Reply:
    """Change what may change in any status."""
    task_id = data.ident("task")

    def change(tx: Transaction) -> Document:
        changes = task_fields.for_update(data, tasks.row(tx, task_id, call.company))
        return tasks.edit(tx, task_id, changes, company=call.company, user=call.user)

    fields = await call.write(change)
    return {"updated": int(bool(fields)), "fields": fields}


@endpoint("tasks.update_batch", batch=True)
async def update_batch(call: Call, data: Fields) -> Reply:
    """Several updates, one JSON object per line."""
    if not call.batch:
        raise errors.EMPTY_BATCH()
    if not all(isinstance(item, dict) for item in call.batch):
        raise errors.BAD_BATCH_ITEM("expected an object")
    replies = [await update(call, Fields(item)) for item in call.batch]
    return {"updated": sum(reply["updated"] for reply in replies)}


@endpoint("tasks.clone")
async def clone(call: Call, data: Fields) -> Reply:
    """A draft with the content of another task."""
    task_id = data.ident("task")
    overrides = _clone_overrides(data)

    def change(tx: Transaction) -> Document:
        reply: Document = {}
        if data.get("new_project_name") and "project" not in overrides:
            name = data.text("new_project_name")
            overrides["project"] = projects.find_or_create(tx, name, user=call.user, company=call.company)
            reply["new_project"] = {"id": overrides["project"], "name": name}
        new_id = tasks.clone(tx, task_id, overrides, company=call.company, user=call.user)
        return {"id": new_id, **reply}

    return await call.write(change)


_CLONE_FIELDS = {
    "new_task_name": "name",
    "new_task_comment": "comment",
    "new_task_tags": "tags",
    "new_task_system_tags": "system_tags",
    "new_task_parent": "parent",
    "new_task_project": "project",
    "new_task_hyperparams": "hyperparams",
    "new_task_configuration": "configuration",
    "new_task_container": "container",
    "execution_overrides": "execution",
}


def _clone_overrides(data: Fields) -> Document:
    given = {field: data[name] for name, field in _CLONE_FIELDS.items() if name in data}
    execution = given.pop("execution", None)
    overrides = task_fields.for_edit(Fields(given), {})
    if isinstance(execution, dict) and execution:
        overrides |= task_fields.for_edit(Fields({"execution": execution}), {})
    return {key: value for key, value in overrides.items() if value is not None}


@endpoint("tasks.ping")
async def ping(call: Call, data: Fields) -> Reply:
    """A sign of life of a running task."""
    task_id = data.ident("task")
    await call.write(lambda tx: tasks.ping(tx, task_id, call.company))
    return {}


# --- deleting ---


def delete_one(call: Call, data: Fields) -> Callable[[Transaction, str], Document]:
    """The deletion that a request asks for, to be applied to one id."""
    force, models = data.flag("force", False), data.flag("delete_output_models", True)
    wants_urls = data.flag("return_file_urls", False)

    def change(tx: Transaction, task_id: str) -> Document:
        tasks.row(tx, task_id, call.company)
        urls = (
            {"artifact_urls": tasks.files_of(tx, task_id), "event_urls": [], "model_urls": []} if wants_urls else None
        )
        deleted = tasks.delete(tx, task_id, force=force, delete_models=models, company=call.company)
        return {"deleted": True, **deleted, "urls": urls}

    return change


@endpoint("tasks.delete")
async def delete(call: Call, data: Fields) -> Reply:
    """Remove a task with everything it has."""
    task_id, change = data.ident("task"), delete_one(call, data)
    reply = await call.write(lambda tx: change(tx, task_id))
    return {name: value for name, value in reply.items() if value is not None}


@endpoint("tasks.delete_many")
async def delete_many(call: Call, data: Fields) -> Reply:
    """Remove several."""
    return await each(call, data, delete_one(call, data))


# --- keeping in order ---


@endpoint("tasks.move")
async def move(call: Call, data: Fields) -> Reply:
    """Put tasks into another project, which is created when it is named and missing."""
    ids = data.idents("ids")
    if not data.get("project") and not data.get("project_name"):
        raise errors.MISSING_FIELDS(fields=["project", "project_name"])

    def change(tx: Transaction) -> Document:
        target = data.text_or_none("project")
        if target is None:
            name = data.text("project_name")
            target = projects.find_or_create(tx, name, user=call.user, company=call.company)
        _require_all(tx, ids, call.company)
        for task_id in ids:
            tasks.edit(tx, task_id, {"project": target}, company=call.company, user=call.user)
        return {"project_id": target, "updated": len(ids)}

    return await call.write(change)


@endpoint("tasks.update_tags")
async def update_tags(call: Call, data: Fields) -> Reply:
    """Add and remove tags of several tasks."""
    ids = data.idents("ids")
    add, remove = task_fields.tags_in(data, "add_tags"), set(data.strings("remove_tags"))

    def change(tx: Transaction) -> int:
        _require_all(tx, ids, call.company)
        for task_id in ids:
            tags = sorted({*tasks.row(tx, task_id, call.company)["tags"], *add} - remove)
            tasks.edit(tx, task_id, {"tags": tags}, company=call.company, user=call.user)
        return len(ids)

    return {"updated": await call.write(change)}


def _require_all(tx: Session, ids: list[str], company: str) -> None:
    missing = set(ids).difference(tasks.existing(tx, ids, company))
    if missing:
        raise errors.INVALID_TASK_ID(ids=sorted(missing), company=company)
