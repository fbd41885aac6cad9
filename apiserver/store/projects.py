"""Projects: a tree in which each one knows its full name, its parent and all its ancestors.

The name of a project is its path, so moving or renaming one rewrites everything below it. Parents that are missing come
into being with the child.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from .. import errors
from ..project_names import (
    MAX_DEPTH,
    MalformedNameError,
    ShortNameError,
    TooDeepError,
    basename_of,
    clean_name,
    location_of,
    renamed_below,
)
from ..query import Entity
from .database import Session, Transaction
from .schema import model, project, task

Row = Mapping[Any, Any]

_COLUMNS = (
    "id",
    "name",
    "basename",
    "description",
    "tags",
    "system_tags",
    "default_output_destination",
    "created",
    "last_update",
    "parent",
    "path",
    "user",
    "company",
    "featured",
)


def document(row: Row, fields: Iterable[str]) -> dict[str, Any]:
    """A project as the wire shows it; what is not set is left out."""
    found = {name: row[name] for name in fields if row[name] is not None}
    for name in ("tags", "system_tags"):
        if name in found:
            found[name] = sorted(found[name])
    return found


def _source(_tables: set[str]) -> FromClause:
    return project


PROJECTS = Entity(
    table=project,
    fields={name: (project.c[name],) for name in _COLUMNS},
    source=_source,
    document=document,
    patterns=frozenset({"name", "basename", "description"}),
    lists=frozenset({"tags", "system_tags", "id", "parent", "path", "user", "default_output_destination"}),
    ranges=frozenset({"last_update"}),
    search=frozenset({"id", "name", "description"}),
    tolerated=frozenset({"stats", "sub_projects", "own_tasks", "own_models", "metadata", "dataset_stats"}),
)

#: Says in SQL that a project is not one of the hidden ones that datasets and pipelines live in.
VISIBLE: ColumnElement[bool] = sa.cast(project.c.system_tags, sa.Text).not_like('%"hidden"%')


def clean(name: str) -> str:
    """The name as it is stored; refuses what cannot be one."""
    try:
        return clean_name(name)
    except ShortNameError as error:
        raise errors.DATA_VALIDATION(str(error), field="name") from error
    except TooDeepError as error:
        raise errors.PROJECT_TOO_DEEP(name=name, max_depth=MAX_DEPTH) from error
    except MalformedNameError as error:
        raise errors.INVALID_PROJECT_NAME(name=name) from error


def find(session: Session, project_id: str, company: str) -> sa.RowMapping:
    """One project; refuses an id that is unknown in this company."""
    row = session.one(project.select().where(project.c.id == project_id, project.c.company.in_((company, ""))))
    if row is None:
        raise errors.INVALID_PROJECT_ID(id=project_id, company=company)
    return row


def find_for_change(session: Session, project_id: str, company: str) -> sa.RowMapping:
    """One project that may be changed: public ones may not."""
    row = find(session, project_id, company)
    if row["company"] != company:
        raise errors.NO_WRITE_PERMISSION(id=project_id)
    return row


def exists(session: Session, project_id: str, company: str) -> bool:
    """Whether the company has (or sees) this project."""
    question = sa.select(project.c.id).where(project.c.id == project_id, project.c.company.in_((company, "")))
    return session.one(question) is not None


def names(session: Session, ids: Iterable[str]) -> dict[str, str]:
    """The names of these projects."""
    rows = session.all(sa.select(project.c.id, project.c.name).where(project.c.id.in_(list(ids))))
    return {row["id"]: row["name"] for row in rows}


def id_of(session: Session, name: str, company: str) -> str | None:
    """The project of this name, if there is one."""
    found: str | None = session.value(
        sa.select(project.c.id).where(project.c.company == company, project.c.name == name)
    )
    return found


def descendants(session: Session, project_ids: Sequence[str]) -> list[str]:
    """The ids of these projects and of everything below them."""
    rows = session.all(sa.select(project.c.id, project.c.path).where(sa.cast(project.c.path, sa.Text) != "[]"))
    roots = set(project_ids)
    below = [row["id"] for row in rows if row["id"] not in roots and not roots.isdisjoint(row["path"])]
    return [*dict.fromkeys(project_ids), *below]


def descendants_of_each(session: Session, project_ids: Sequence[str]) -> dict[str, list[str]]:
    """For each of these projects, the ids of everything below it; all with one question."""
    below: dict[str, list[str]] = {project_id: [] for project_id in project_ids}
    for row in session.all(sa.select(project.c.id, project.c.path).where(sa.cast(project.c.path, sa.Text) != "[]")):
        for ancestor in row["path"]:
            if ancestor in below:
                below[ancestor].append(row["id"])
    return below


def task_counts(session: Session, company: str) -> Sequence[sa.RowMapping]:
    """How many tasks each project of a company has, by status and whether they are archived, and how long they ran."""
    archived = sa.cast(task.c.system_tags, sa.Text).like('%"archived"%')
    return session.all(
        sa.select(
            task.c.project,
            task.c.status,
            archived.label("archived"),
            sa.func.count().label("tasks"),
            sa.func.sum(task.c.active_duration).label("runtime"),
        )
        .where(task.c.company == company, task.c.project.is_not(None))
        .group_by(task.c.project, task.c.status, archived)
    )


def touch(tx: Transaction, project_id: str | None) -> None:
    """Note that something in this project changed."""
    if project_id:
        tx.execute(project.update().where(project.c.id == project_id).values(last_update=tx.now))


def create(tx: Transaction, name: str, *, user: str, company: str, **values: Any) -> str:
    """Create a project, and its missing parents; refuses a name that is taken."""
    name = clean(name)
    if id_of(tx, name, company) is not None:
        raise errors.NOT_UNIQUE(name=name, company=company)
    return _insert(tx, name, user=user, company=company, **values)


def find_or_create(tx: Transaction, name: str, *, user: str, company: str) -> str:
    """The project of this name, which comes into being when it is not there."""
    name = clean(name)
    return id_of(tx, name, company) or _insert(tx, name, user=user, company=company)


def _insert(tx: Transaction, name: str, *, user: str, company: str, **values: Any) -> str:
    parent, path = _place(tx, location_of(name), user=user, company=company)
    project_id = uuid4().hex
    tx.execute(
        project.insert().values(
            id=project_id,
            company=company,
            user=user,
            name=name,
            basename=basename_of(name),
            created=tx.now,
            last_update=tx.now,
            parent=parent,
            path=path,
            **values,
        )
    )
    return project_id


def _place(tx: Transaction, location: str, *, user: str, company: str) -> tuple[str | None, list[str]]:
    """The parent of that name, created if need be, and the ids from the top down to it."""
    if not location:
        return None, []
    question = sa.select(project.c.id, project.c.path)
    row = tx.one(question.where(project.c.company == company, project.c.name == location))
    if row is not None:
        return row["id"], [*row["path"], row["id"]]
    parent = _insert(tx, location, user=user, company=company)
    path: list[str] = tx.value(sa.select(project.c.path).where(project.c.id == parent))
    return parent, [*path, parent]


def update(tx: Transaction, row: Row, values: dict[str, Any]) -> dict[str, Any]:
    """Change a project; a new name must stay at its place in the tree. Returns what was written."""
    if "name" in values:
        values = {**values, "name": clean(values["name"])}
        if location_of(values["name"]) != location_of(row["name"]):
            raise errors.PROJECT_LOCATION_CHANGE(project=row["id"], name=values["name"])
        _rename(tx, row, values["name"], row["parent"], row["path"])
    changes = {**values, "last_update": tx.now}
    tx.execute(project.update().where(project.c.id == row["id"]).values(**changes))
    return changes


def move(tx: Transaction, row: Row, new_location: str, *, user: str) -> int:
    """Put a project, with all below it, under another parent (or at the top); returns how many moved."""
    location = "/".join(part.strip() for part in new_location.split("/") if part.strip())
    if location == location_of(row["name"]):
        raise errors.PROJECT_SAME_LOCATION(project=row["id"], location=location)
    if _is_within(location, row["name"]):
        raise errors.PROJECT_UNDER_ITSELF(project=row["id"], location=location)
    name = clean(f"{location}/{row['basename']}")
    parent, path = _place(tx, location, user=user, company=row["company"])
    return _rename(tx, row, name, parent, path)


def merge(tx: Transaction, row: Row, target: Row | None) -> tuple[int, int]:
    """Move what is in a project (directly: tasks and models; and its sub-projects) into another one, and delete it."""
    if target is not None and _is_within(target["name"], row["name"]):
        raise errors.PROJECT_SOURCE_IS_DESTINATION(project=row["id"])
    target_id = target["id"] if target is not None else None
    entities = sum(
        tx.execute(table.update().where(table.c.project == row["id"]).values(project=target_id)).rowcount
        for table in (task, model)
    )
    children = tx.all(project.select().where(project.c.parent == row["id"]))
    path = [*target["path"], target["id"]] if target is not None else []
    for child in children:
        name = f"{target['name']}/{child['basename']}" if target is not None else child["basename"]
        _rename(tx, child, clean(name), target_id, path)
    tx.execute(project.delete().where(project.c.id == row["id"]))
    touch(tx, target_id)
    return entities, len(children)


def _is_within(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}/")


def _rename(tx: Transaction, row: Row, name: str, parent: str | None, path: Sequence[str]) -> int:
    """Give a project another name and place, and all below it accordingly; returns how many."""
    taken = id_of(tx, name, row["company"])
    if taken is not None and taken != row["id"]:
        raise errors.NOT_UNIQUE(name=name, company=row["company"])
    below = [
        other
        for other in tx.all(project.select().where(project.c.company == row["company"]))
        if row["id"] in other["path"]
    ]
    tx.execute(
        project.update()
        .where(project.c.id == row["id"])
        .values(name=name, basename=basename_of(name), parent=parent, path=list(path), last_update=tx.now)
    )
    for other in below:
        tail = other["path"][other["path"].index(row["id"]) :]
        new_name = clean(renamed_below(other["name"], row["name"], name))
        tx.execute(project.update().where(project.c.id == other["id"]).values(name=new_name, path=[*path, *tail]))
    return 1 + len(below)


def delete(tx: Transaction, project_ids: Sequence[str]) -> int:
    """Delete projects; what was in them belongs to no project any more."""
    for table in (task, model):
        tx.execute(table.update().where(table.c.project.in_(project_ids)).values(project=None))
    return tx.execute(project.delete().where(project.c.id.in_(project_ids))).rowcount


def contents(session: Session, project_ids: Sequence[str], *, archived_too: bool = True) -> tuple[list[str], list[str]]:
    """The ids of the tasks and the models in these projects."""
    ids = []
    for table in (task, model):
        question = sa.select(table.c.id).where(table.c.project.in_(project_ids))
        if not archived_too:
            question = question.where(sa.cast(table.c.system_tags, sa.Text).not_like('%"archived"%'))
        ids.append(list(session.execute(question).scalars()))
    return ids[0], ids[1]
