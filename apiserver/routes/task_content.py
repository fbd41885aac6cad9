"""The endpoints that change parts of a task's content: parameters, configuration, artifacts, models, requirements,
runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from .. import errors, states, task_fields
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document
from ..store import models, tasks
from ..store.database import Session, Transaction

#: Statuses in which content may be edited; force adds those of a task that waits or runs.
_DRAFT = frozenset({states.CREATED})
_FORCED = frozenset({states.CREATED, states.QUEUED, states.IN_PROGRESS})

_REPLACE = frozenset({"none", "section", "all"})

Edit = Callable[[Document], Document]


def _edit(call: Call, task_id: str, allowed: Collection[str] | None, edit: Edit) -> Callable[[Transaction], Document]:
    """A change of some fields of a task whose status allows it; `allowed` None: any status."""

    def change(tx: Transaction) -> Document:
        found = tasks.find(tx, task_id, call.company)
        if allowed is not None and found["status"] not in allowed:
            raise errors.INVALID_TASK_STATUS(current_status=found["status"], expected=sorted(allowed), task=task_id)
        return tasks.edit(tx, task_id, edit(found), company=call.company, user=call.user)

    return change


def _allowed(data: Fields) -> frozenset[str]:
    return _FORCED if data.flag("force", False) else _DRAFT


def _for_params(data: Fields, sections: Collection[str]) -> frozenset[str] | None:
    """Properties of a task may be edited whatever its status is."""
    only_properties = bool(sections) and set(sections) == {task_fields.PROPERTIES}
    return None if only_properties else _allowed(data)


# --- parameters ---


@endpoint("tasks.get_hyper_params")
async def get_hyper_params(call: Call, data: Fields) -> Reply:
    """Parameters of several tasks as lists."""
    ids = data.idents("tasks")

    def ask(tx: Session) -> list[Document]:
        return [
            {"task": found["id"], "hyperparams": _flat(found["hyperparams"])} for found in _all(tx, ids, call.company)
        ]

    return {"params": await call.read(ask)}


def _all(tx: Session, ids: list[str], company: str) -> list[Document]:
    missing = set(ids).difference(tasks.existing(tx, ids, company))
    if missing:
        raise errors.INVALID_TASK_ID(ids=sorted(missing), company=company)
    return [tasks.find(tx, task_id, company) for task_id in ids]


def _flat(hyperparams: Mapping[str, Mapping[str, Any]]) -> list[Document]:
    return [item for _section, items in sorted(hyperparams.items()) for _name, item in sorted(items.items())]


@endpoint("tasks.edit_hyper_params")
async def edit_hyper_params(call: Call, data: Fields) -> Reply:
    """Set parameters."""
    task_id, params = data.ident("task"), task_fields.param_items(data.objects("hyperparams"))
    replace = data.one_of("replace_hyperparams", _REPLACE, "none")
    allowed = _for_params(data, {param["section"] for param in params}) if replace != "all" else _allowed(data)

    def edit(found: Document) -> Document:
        return {"hyperparams": task_fields.with_params(found["hyperparams"], params, replace=replace)}

    await call.write(_edit(call, task_id, allowed, edit))
    return {"updated": 1}


@endpoint("tasks.delete_hyper_params")
async def delete_hyper_params(call: Call, data: Fields) -> Reply:
    """Delete parameters, or whole sections."""
    task_id, keys = data.ident("task"), data.objects("hyperparams")
    allowed = _for_params(data, {key.ident("section") for key in keys})

    def edit(found: Document) -> Document:
        return {"hyperparams": task_fields.without_params(found["hyperparams"], keys)}

    await call.write(_edit(call, task_id, allowed, edit))
    return {"deleted": 1}


# --- configuration ---


@endpoint("tasks.get_configurations")
async def get_configurations(call: Call, data: Fields) -> Reply:
    """Configuration objects of several tasks, all or by name."""
    ids, names = data.idents("tasks"), data.strings("names")

    def ask(tx: Session) -> list[Document]:
        return [
            {
                "task": found["id"],
                "configuration": [
                    item for name, item in sorted(found["configuration"].items()) if not names or name in names
                ],
            }
            for found in _all(tx, ids, call.company)
        ]

    return {"configurations": await call.read(ask)}


@endpoint("tasks.get_configuration_names")
async def get_configuration_names(call: Call, data: Fields) -> Reply:
    """Names of the configuration objects of several tasks."""
    ids, skip_empty = data.idents("tasks"), data.flag("skip_empty", True)

    def ask(tx: Session) -> list[Document]:
        return [
            {"task": found["id"], "names": sorted(_names_in(found["configuration"], skip_empty))}
            for found in _all(tx, ids, call.company)
        ]

    return {"configurations": await call.read(ask)}


def _names_in(configuration: Mapping[str, Document], skip_empty: bool) -> list[str]:
    return [name for name, item in configuration.items() if item.get("value") or not skip_empty]


@endpoint("tasks.edit_configuration")
async def edit_configuration(call: Call, data: Fields) -> Reply:
    """Set configuration objects."""
    task_id, items = data.ident("task"), task_fields.configuration_items(data.objects("configuration"))
    replace = data.flag("replace_configuration", False)

    def edit(found: Document) -> Document:
        kept = {} if replace else found["configuration"]
        return {"configuration": {**kept, **{item["name"]: item for item in items}}}

    await call.write(_edit(call, task_id, _allowed(data), edit))
    return {"updated": 1}


@endpoint("tasks.delete_configuration")
async def delete_configuration(call: Call, data: Fields) -> Reply:
    """Delete configuration objects by name."""
    task_id, names = data.ident("task"), set(data.idents("configuration"))

    def edit(found: Document) -> Document:
        return {"configuration": {name: item for name, item in found["configuration"].items() if name not in names}}

    await call.write(_edit(call, task_id, _allowed(data), edit))
    return {"deleted": 1}


# --- artifacts and models ---


@endpoint("tasks.add_or_update_artifacts")
async def add_or_update_artifacts(call: Call, data: Fields) -> Reply:
    """Merge artifacts by key and mode; those not named stay."""
    task_id, new = data.ident("task"), task_fields.artifacts_of(data.listing("artifacts"))

    def edit(found: Document) -> Document:
        return _artifacts(found, task_fields.merged_artifacts(found["execution"]["artifacts"], new))

    await call.write(_edit(call, task_id, _FORCED, edit))
    return {"updated": 1}


def _artifacts(found: Document, artifacts: list[Document]) -> Document:
    execution = {name: value for name, value in found["execution"].items() if name != "queue"}
    return {"execution": {**execution, "artifacts": artifacts}}


@endpoint("tasks.delete_artifacts")
async def delete_artifacts(call: Call, data: Fields) -> Reply:
    """Remove artifacts by key and mode."""
    task_id = data.ident("task")
    gone = {(item.ident("key"), item.text_or("mode", "output")) for item in data.objects("artifacts")}

    def edit(found: Document) -> Document:
        kept = [item for item in found["execution"]["artifacts"] if (item["key"], item["mode"]) not in gone]
        return _artifacts(found, kept)

    await call.write(_edit(call, task_id, _FORCED, edit))
    return {"deleted": 1}


@endpoint("tasks.add_or_update_model")
async def add_or_update_model(call: Call, data: Fields) -> Reply:
    """Set a model of the task by name."""
    task_id, name, model_id = data.ident("task"), data.ident("name"), data.ident("model")
    side = data.one_of("type", frozenset({"input", "output"}))
    iteration = data.integer("iteration", -1)

    def change(tx: Transaction) -> Document:
        models.row(tx, model_id, call.company)
        found = tasks.find(tx, task_id, call.company)
        listed = task_fields.with_model(found["models"][side], name, model_id, tx.now)
        changes = {"models": {**found["models"], side: listed}}
        if iteration >= 0:
            tasks.raise_iteration(tx, task_id, iteration)
        return tasks.edit(tx, task_id, changes, company=call.company, user=call.user)

    await call.write(change)
    return {"updated": 1}


@endpoint("tasks.delete_models")
async def delete_models(call: Call, data: Fields) -> Reply:
    """Remove models from the task's lists by name."""
    task_id = data.ident("task")
    gone = {
        (item.one_of("type", frozenset({"input", "output"})), item.ident("name")) for item in data.objects("models")
    }

    def edit(found: Document) -> Document:
        listed = found["models"]
        return {
            "models": {
                side: [item for item in listed[side] if (side, item["name"]) not in gone]
                for side in ("input", "output")
            }
        }

    await call.write(_edit(call, task_id, _FORCED, edit))
    return {"updated": 1}


# --- requirements and runtime ---


@endpoint("tasks.set_requirements")
async def set_requirements(call: Call, data: Fields) -> Reply:
    """Replace the requirements of the task's script, whatever its status is."""
    task_id = data.ident("task")
    if "requirements" not in data:
        raise errors.VALIDATION("missing required field: requirements", field="requirements")
    requirements = task_fields.requirements_of(data["requirements"])

    def edit(found: Document) -> Document:
        if not found["script"]:
            raise errors.MISSING_TASK_FIELD("task has no script", task=task_id)
        return {"script": {**found["script"], "requirements": requirements}}

    fields = await call.write(_edit(call, task_id, None, edit))
    return {"updated": 1, "fields": {"script.requirements": requirements, "last_update": fields["last_update"]}}


@endpoint("tasks.edit_runtime", since="2.34")
async def edit_runtime(call: Call, data: Fields) -> Reply:
    """Set and delete single keys of the runtime dictionary; others keep what they wrote."""
    task_id, runtime = data.ident("task"), task_fields.runtime_in(data)
    gone = set(data.strings("delete") or data.strings("keys_to_delete"))

    def edit(found: Document) -> Document:
        merged = {**found["runtime"], **runtime}
        return {"runtime": {key: value for key, value in merged.items() if key not in gone}}

    await call.write(_edit(call, task_id, None, edit))
    return {"updated": 1}
