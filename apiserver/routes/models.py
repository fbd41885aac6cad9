"""Models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from .. import errors, task_fields
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document, Query, fetch, parse
from ..store import models, projects, task_status, tasks
from ..store.database import Session, Transaction
from ..store.schema import model
from .bulk import each
from .joins import expanded
from .task_status import asked

_TEXTS = ("comment", "uri", "framework")
_REFERENCES = ("project", "task", "parent")


def _changes(data: Fields) -> Document:
    """The stored fields that a request sets."""
    changes: Document = {name: data.text(name) for name in _TEXTS if name in data}
    changes |= {name: data.text(name) or None for name in _REFERENCES if name in data}
    changes |= {name: task_fields.tags_in(data, name) for name in ("tags", "system_tags") if name in data}
    if "name" in data:
        changes["name"] = data.text("name").strip()
    if "design" in data:
        design = data["design"]
        changes["design"] = design if isinstance(design, dict) else {"design": str(design)}
    if "labels" in data:
        changes["labels"] = _labels(data.mapping("labels"))
    if "ready" in data:
        changes["ready"] = data.flag("ready", True)
    if "ui_cache" in data:
        changes["ui_cache"] = data.mapping("ui_cache")
    if "metadata" in data:
        changes["metadata"] = _metadata(data)
    return changes


def _labels(labels: dict[str, Any]) -> Document:
    for name, value in labels.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise errors.VALIDATION("label values must be integers", field=f"labels.{name}")
    return labels


def _metadata(data: Fields) -> Document:
    """Metadata by key, from a list of items or an object of items."""
    value = data["metadata"]
    items = list(value.values()) if isinstance(value, dict) else value
    wanted = Fields({"metadata": items}).objects("metadata")
    return {
        item.ident("key"): {name: item[name] for name in ("key", "type", "value") if name in item} for item in wanted
    }


@endpoint("models.create")
async def create(call: Call, data: Fields) -> Reply:
    """A new model."""
    data.text("uri")
    data.text("name")
    changes = _changes(data)
    new_id = await call.write(lambda tx: models.create(tx, changes, company=call.company, user=call.user))
    return {"id": new_id, "created": True}


async def _edit(call: Call, data: Fields) -> Reply:
    model_id, changes, iteration = data.ident("model"), _changes(data), data.integer("iteration", -1)

    def change(tx: Transaction) -> Document:
        if iteration >= 0:
            creator = models.row(tx, model_id, call.company)["task"]
            if creator:
                tasks.raise_iteration(tx, creator, iteration)
        return models.edit(tx, model_id, changes, company=call.company, user=call.user)

    fields = await call.write(change)
    return {"updated": int(bool(fields)), "fields": fields}


@endpoint("models.edit")
async def edit(call: Call, data: Fields) -> Reply:
    """Set fields."""
    return await _edit(call, data)


@endpoint("models.update")
async def update(call: Call, data: Fields) -> Reply:
    """Set fields."""
    return await _edit(call, data)


@endpoint("models.get_by_id")
async def get_by_id(call: Call, data: Fields) -> Reply:
    """The model."""
    model_id = data.ident("model")
    return {"model": await call.read(lambda tx: models.find(tx, model_id, call.company))}


async def _get_all(call: Call, data: Fields, *, join: bool) -> Reply:
    query = parse(data, models.MODELS, scroll=call.services.scroll)

    def ask(tx: Session) -> list[Document]:
        found = _fetch(tx, query, data, call.company)
        return expanded(tx, found) if join else found

    found = await call.read(ask)
    scroll_id = query.next_scroll_id(call.services.scroll, len(found))
    return {"models": found} if scroll_id is None else {"models": found, "scroll_id": scroll_id}


def _fetch(tx: Session, query: Query, data: Fields, company: str) -> list[Document]:
    conditions: list[sa.ColumnElement[bool]] = [model.c.company == company]
    if data.get("include_subprojects") and data.get("project"):
        wanted = data["project"] if isinstance(data["project"], list) else [data["project"]]
        conditions.append(model.c.project.in_(projects.descendants(tx, [item for item in wanted if item])))
    return fetch(tx, models.MODELS, query, *conditions)


@endpoint("models.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """Models by query."""
    return await _get_all(call, data, join=False)


@endpoint("models.get_all_ex")
async def get_all_ex(call: Call, data: Fields) -> Reply:
    """Models by query, references joined."""
    return await _get_all(call, data, join=True)


@endpoint("models.get_frameworks")
async def get_frameworks(call: Call, data: Fields) -> Reply:
    """The frameworks in use."""
    return {"frameworks": await call.read(lambda tx: models.frameworks(tx, call.company))}


# --- publishing ---


@endpoint("models.set_ready")
async def set_ready(call: Call, data: Fields) -> Reply:
    """Publish a model, and the task that made it unless told otherwise."""
    model_id, with_task = data.ident("model"), data.flag("publish_task", True)
    who = asked(call, Fields({"force": data.flag("force_publish_task", False)}))

    def change(tx: Transaction) -> Document:
        found = models.row(tx, model_id, call.company)
        if found["ready"]:
            raise errors.MODEL_IS_READY(model=model_id)
        models.edit(tx, model_id, {"ready": True}, company=call.company, user=call.user)
        if not with_task or not found["task"] or not tasks.existing(tx, [found["task"]], call.company):
            return {"updated": 1}
        fields = task_status.publish(tx, found["task"], who, publish_model=False)
        return {"updated": 1, "published_task": {"id": found["task"], "data": {"updated": 1, "fields": fields}}}

    return await call.write(change)


@endpoint("models.publish_many")
async def publish_many(call: Call, data: Fields) -> Reply:
    """Publish several models."""
    return await each(call, data, _setting(call, lambda found: {"ready": True}))


@endpoint("models.archive_many")
async def archive_many(call: Call, data: Fields) -> Reply:
    """Out of sight."""
    return await each(
        call, data, _setting(call, lambda found: {"system_tags": sorted({*found["system_tags"], "archived"})})
    )


@endpoint("models.unarchive_many")
async def unarchive_many(call: Call, data: Fields) -> Reply:
    """In sight again."""
    return await each(
        call, data, _setting(call, lambda found: {"system_tags": sorted({*found["system_tags"]} - {"archived"})})
    )


def _setting(call: Call, changes_for: Callable[[Any], Document]) -> Callable[[Transaction, str], Document]:
    def change(tx: Transaction, model_id: str) -> Document:
        changes = changes_for(models.row(tx, model_id, call.company))
        fields = models.edit(tx, model_id, changes, company=call.company, user=call.user)
        return {"updated": 1, "fields": fields}

    return change


# --- deleting, metadata ---


@endpoint("models.delete")
async def delete(call: Call, data: Fields) -> Reply:
    """Remove a model."""
    model_id, force = data.ident("model"), data.flag("force", False)
    return await call.write(lambda tx: models.delete(tx, model_id, call.company, force=force))


@endpoint("models.delete_many")
async def delete_many(call: Call, data: Fields) -> Reply:
    """Remove several models."""
    force = data.flag("force", False)
    return await each(call, data, lambda tx, model_id: models.delete(tx, model_id, call.company, force=force))


@endpoint("models.add_or_update_metadata")
async def add_or_update_metadata(call: Call, data: Fields) -> Reply:
    """Set metadata items."""
    model_id, items, replace = data.ident("model"), _metadata(data), data.flag("replace_metadata", False)

    def change(tx: Transaction) -> None:
        known = {} if replace else models.row(tx, model_id, call.company)["metadata"]
        models.edit(tx, model_id, {"metadata": {**known, **items}}, company=call.company, user=call.user)

    await call.write(change)
    return {"updated": 1}


@endpoint("models.delete_metadata")
async def delete_metadata(call: Call, data: Fields) -> Reply:
    """Delete metadata items by key."""
    model_id, keys = data.ident("model"), set(data.idents("keys"))

    def change(tx: Transaction) -> None:
        known = models.row(tx, model_id, call.company)["metadata"]
        kept = {key: item for key, item in known.items() if key not in keys}
        models.edit(tx, model_id, {"metadata": kept}, company=call.company, user=call.user)

    await call.write(change)
    return {"updated": 1}


@endpoint("models.update_tags")
async def update_tags(call: Call, data: Fields) -> Reply:
    """Add and remove tags of several models."""
    ids = data.idents("ids")
    add, remove = task_fields.tags_in(data, "add_tags"), set(data.strings("remove_tags"))
    change_one = _setting(call, lambda found: {"tags": sorted({*found["tags"], *add} - remove)})
    return {"updated": await call.write(lambda tx: len([change_one(tx, model_id) for model_id in ids]))}


@endpoint("models.move")
async def move(call: Call, data: Fields) -> Reply:
    """Put models into another project, which is created when it is named and missing."""
    ids = data.idents("ids")
    if not data.get("project") and not data.get("project_name"):
        raise errors.MISSING_FIELDS(fields=["project", "project_name"])

    def change(tx: Transaction) -> Document:
        target = data.text_or_none("project")
        if target is None:
            target = projects.find_or_create(tx, data.text("project_name"), user=call.user, company=call.company)
        for model_id in ids:
            models.edit(tx, model_id, {"project": target}, company=call.company, user=call.user)
        return {"project_id": target, "moved": len(ids), "updated": len(ids)}

    return await call.write(change)
