"""`projects.*`: the tree that tasks and models are kept in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from .. import errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Query, fetch, parse
from ..store import models, projects, tasks
from ..store.database import Session, Transaction
from ..store.event_tables import scalar_series
from ..store.projects import PROJECTS, VISIBLE
from ..store.schema import model, project, task

_WRITABLE_TEXTS = ("name", "description", "default_output_destination")
_WRITABLE_LISTS = ("tags", "system_tags")


@endpoint("projects.get_all")
async def get_all(call: Call, data: Fields) -> Reply:
    """Find projects with the query language."""
    query, found = await _search(call, data, _without_extras)
    return {"projects": found, **_scroll(call, query, found)}


@endpoint("projects.get_all_ex")
async def get_all_ex(call: Call, data: Fields) -> Reply:
    """Find projects, with what is in them counted: for the overview page."""
    query, found = await _search(call, data, _extras_for(call, data))
    return {"projects": found, **_scroll(call, query, found)}


@endpoint("projects.get_by_id")
async def get_by_id(call: Call, data: Fields) -> Reply:
    """One project."""
    project_id = data.ident("project")
    row = await call.read(lambda tx: projects.find(tx, project_id, call.company))
    return {"project": projects.document(row, PROJECTS.fields)}


@endpoint("projects.create")
async def create(call: Call, data: Fields) -> Reply:
    """Create a project, and its missing parents."""
    name, values = data.text("name"), _values(data)
    values.pop("name")
    created = await call.write(lambda tx: projects.create(tx, name, user=call.user, company=call.company, **values))
    return {"id": created}


@endpoint("projects.update")
async def update(call: Call, data: Fields) -> Reply:
    """Change what a project says of itself; not where it is."""
    project_id, values = data.ident("project"), _values(data)

    def change(tx: Transaction) -> dict[str, Any]:
        row = projects.find_for_change(tx, project_id, call.company)
        return projects.update(tx, row, values) if values else {}

    written = await call.write(change)
    return {"updated": 1 if written else 0, "fields": written}


@endpoint("projects.move")
async def move(call: Call, data: Fields) -> Reply:
    """Put a project and all below it under another parent."""
    project_id, location = data.ident("project"), data.text_or("new_location", "")

    def change(tx: Transaction) -> int:
        row = projects.find_for_change(tx, project_id, call.company)
        return projects.move(tx, row, location, user=call.user)

    return {"moved": await call.write(change)}


@endpoint("projects.merge")
async def merge(call: Call, data: Fields) -> Reply:
    """Move the content of a project into another one and delete it."""
    project_id, target_id = data.ident("project"), data.text_or_none("destination_project")

    def change(tx: Transaction) -> tuple[int, int]:
        row = projects.find_for_change(tx, project_id, call.company)
        target = projects.find_for_change(tx, target_id, call.company) if target_id else None
        return projects.merge(tx, row, target)

    entities, moved = await call.write(change)
    return {"moved_entities": entities, "moved_projects": moved}


@endpoint("projects.validate_delete")
async def validate_delete(call: Call, data: Fields) -> Reply:
    """Say what stands in the way of deleting a project."""
    project_id = data.ident("project")

    def question(tx: Session) -> Reply:
        projects.find(tx, project_id, call.company)
        ids = projects.descendants(tx, [project_id])
        all_tasks, all_models = projects.contents(tx, ids)
        active_tasks, active_models = projects.contents(tx, ids, archived_too=False)
        return {
            "tasks": len(all_tasks),
            "non_archived_tasks": len(active_tasks),
            "models": len(all_models),
            "non_archived_models": len(active_models),
        }

    return await call.read(question)


@endpoint("projects.delete")
async def delete(call: Call, data: Fields) -> Reply:
    """Delete a project and all below it. What is in it stays, without a project, unless its deletion is asked for."""
    project_id = data.ident("project")
    force, with_contents = data.flag("force", False), data.flag("delete_contents", False)

    def change(tx: Transaction) -> Reply:
        row = projects.find_for_change(tx, project_id, call.company)
        ids = projects.descendants(tx, [project_id])
        if not force:
            _require_no_active_contents(tx, project_id, ids)
        task_ids, model_ids = projects.contents(tx, ids)
        urls = [url for task_id in task_ids for url in tasks.files_of(tx, task_id)] if with_contents else []
        if with_contents:
            _delete_contents(tx, call.company, task_ids, model_ids)
        projects.delete(tx, ids)
        projects.touch(tx, row["parent"])
        return {
            "deleted": len(ids),
            "disassociated_tasks": 0 if with_contents else len(task_ids),
            "deleted_tasks": len(task_ids) if with_contents else 0,
            "deleted_models": len(model_ids) if with_contents else 0,
            "urls": {"model_urls": [], "event_urls": [], "artifact_urls": urls},
        }

    return await call.write(change)


def _require_no_active_contents(tx: Session, project_id: str, ids: Sequence[str]) -> None:
    task_ids, model_ids = projects.contents(tx, ids, archived_too=False)
    if task_ids:
        raise errors.PROJECT_HAS_TASKS("use force=true to delete", id=project_id)
    if model_ids:
        raise errors.PROJECT_HAS_MODELS("use force=true to delete", id=project_id)


@endpoint("projects.get_task_tags")
async def get_task_tags(call: Call, data: Fields) -> Reply:
    """All tags that tasks of these projects have."""
    return await _tags(call, data, task)


@endpoint("projects.get_model_tags")
async def get_model_tags(call: Call, data: Fields) -> Reply:
    """All tags that models of these projects have."""
    return await _tags(call, data, model)


@endpoint("projects.get_project_tags")
async def get_project_tags(call: Call, data: Fields) -> Reply:
    """All tags that these projects, or those below them, have."""
    return await _tags(call, data, project)


@endpoint("projects.get_unique_metric_variants")
async def get_unique_metric_variants(call: Call, data: Fields) -> Reply:
    """Which curves the tasks (or models) of a project have, for pickers of columns."""
    owners = model if data.flag("model_metrics", False) else task
    project_id, ids = data.text_or_none("project"), data.strings("ids")
    below = data.flag("include_subprojects", True)

    def question(tx: Session) -> Sequence[sa.RowMapping]:
        wanted: list[ColumnElement[bool]] = [owners.c.company == call.company]
        if project_id:
            wanted.append(owners.c.project.in_(projects.descendants(tx, [project_id]) if below else [project_id]))
        if ids:
            wanted.append(owners.c.id.in_(ids))
        series = scalar_series.c
        return tx.all(
            sa.select(series.metric, series.metric_hash, series.variant, series.variant_hash)
            .distinct()
            .where(series.owner.in_(sa.select(owners.c.id).where(*wanted)))
            .order_by(series.metric, series.variant)
        )

    return {"metrics": [dict(row) for row in await call.read(question)]}


# --- searching -------------------------------------------------------------------------------------------------------

_Extras = Callable[[Session, Sequence[dict[str, Any]]], None]


async def _search(call: Call, data: Fields, add_extras: _Extras) -> tuple[Query, list[dict[str, Any]]]:
    wanted = _with_parents_understood(data)
    query = parse(wanted, PROJECTS, scroll=call.services.scroll)
    where: list[ColumnElement[bool]] = [project.c.company.in_((call.company, ""))]
    if not data.flag("search_hidden", False) and not data.get("id"):
        where.append(VISIBLE)

    def question(tx: Session) -> list[dict[str, Any]]:
        found = fetch(tx, PROJECTS, query, *where)
        add_extras(tx, found)
        return found

    return query, await call.read(question)


def _with_parents_understood(data: Fields) -> Fields:
    """`parent` means "anywhere below" unless the search is shallow; a shallow search without it is one at the top."""
    wanted = {name: value for name, value in data.items() if name != "path"}
    if data.flag("shallow_search", False):
        wanted.setdefault("parent", [None])
    elif wanted.get("parent") not in (None, [], [None]):
        wanted["path"] = wanted.pop("parent")
    return Fields(wanted)


def _scroll(call: Call, query: Query, found: Sequence[object]) -> Reply:
    scroll_id = query.next_scroll_id(call.services.scroll, len(found))
    return {} if scroll_id is None else {"scroll_id": scroll_id}


def _without_extras(tx: Session, found: Sequence[dict[str, Any]]) -> None:
    return


def _extras_for(call: Call, data: Fields) -> _Extras:
    with_stats = data.flag("include_stats", False)
    with_children = data.flag("stats_with_children", True)
    own_contents = data.flag("check_own_contents", False)

    def add(tx: Session, found: Sequence[dict[str, Any]]) -> None:
        below = projects.descendants_of_each(tx, [item["id"] for item in found])
        if with_stats:
            counts = projects.task_counts(tx, call.company)
            names = projects.names(tx, {id_ for ids in below.values() for id_ in ids})
            for item in found:
                members = {item["id"], *below[item["id"]]} if with_children else {item["id"]}
                item["stats"] = _stats([row for row in counts if row["project"] in members])
                item["sub_projects"] = [{"id": id_, "name": names[id_]} for id_ in below[item["id"]]]
        if own_contents:
            for item in found:
                own_tasks, own_models = projects.contents(tx, [item["id"]])
                item["own_tasks"], item["own_models"] = len(own_tasks), len(own_models)

    return add


def _stats(counts: Iterable[Mapping[Any, Any]]) -> Reply:
    rows = list(counts)
    return {
        state: _counted([row for row in rows if bool(row["archived"]) is archived])
        for state, archived in (("active", False), ("archived", True))
    }


def _counted(rows: Sequence[Mapping[Any, Any]]) -> Reply:
    by_status: Counter[str] = Counter()
    for row in rows:
        by_status[row["status"]] += row["tasks"]
    return {
        "total_tasks": by_status.total(),
        "status_count": dict(by_status),
        "total_runtime": sum(row["runtime"] or 0 for row in rows),
    }


# --- parts -----------------------------------------------------------------------------------------------------------


def _values(data: Fields) -> dict[str, Any]:
    values: dict[str, Any] = {name: data.text(name) for name in _WRITABLE_TEXTS if name in data}
    for name in _WRITABLE_LISTS:
        if name in data:
            values[name] = sorted(set(data.strings(name)))
    return values


async def _tags(call: Call, data: Fields, table: sa.Table) -> Reply:
    """The tags in use, and those of the system where they are asked for."""
    asked, include_system = data.strings("projects"), data.flag("include_system", False)

    def question(tx: Session) -> Sequence[sa.RowMapping]:
        wanted: list[ColumnElement[bool]] = [table.c.company == call.company]
        if asked:
            member_of = table.c.id if table is project else table.c.project
            wanted.append(member_of.in_(projects.descendants(tx, asked)))
        return tx.all(sa.select(table.c.tags, table.c.system_tags).where(*wanted))

    rows = await call.read(question)
    reply: Reply = {"tags": sorted({tag for row in rows for tag in row["tags"]})}
    if include_system:
        reply["system_tags"] = sorted({tag for row in rows for tag in row["system_tags"]})
    return reply


def _delete_contents(tx: Transaction, company: str, task_ids: Sequence[str], model_ids: Sequence[str]) -> None:
    for task_id in task_ids:
        tasks.delete(tx, task_id, force=True, delete_models=False, company=company)
    for model_id in model_ids:
        models.delete(tx, model_id, company, force=True)
