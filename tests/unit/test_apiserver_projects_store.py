"""The tree of projects: missing parents, moving, merging, and what stands in the way."""

import pytest
import sqlalchemy as sa

from apiserver.errors import ApiError
from apiserver.store import events as _events  # noqa: F401  (its tables join the metadata)
from apiserver.store import projects
from apiserver.store.database import Transaction
from apiserver.store.schema import metadata, project, task, to_json

WHO = {"user": "u", "company": "c"}


@pytest.fixture(scope="module")
def engine():
    engine = sa.create_engine("sqlite://", json_serializer=to_json)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def tx(engine):
    with engine.connect() as connection, connection.begin() as transaction:
        yield Transaction(connection, 1_700_000_000.0)
        transaction.rollback()


def names(tx):
    return sorted(tx.execute(sa.select(project.c.name)).scalars())


def find(tx, name):
    return projects.find(tx, projects.id_of(tx, name, "c"), "c")


def add_task(tx, task_id, project_id):
    values = {"company": "c", "name": "nnn", "type": "training", "status": "created", "status_reason": ""}
    lists = {"tags": [], "system_tags": [], "runtime": {}, "container": {}, "models": {}, "output": {}}
    tx.execute(
        task.insert().values(id=task_id, project=project_id, status_message="", last_iteration=0, **values, **lists)
    )


def refused(subcode, action, *arguments, **named):
    with pytest.raises(ApiError) as error:
        action(*arguments, **named)
    assert (error.value.code, error.value.subcode) == (400, subcode)


def test_missing_parents_come_into_being(tx):
    projects.create(tx, "one/two/three", **WHO)
    assert names(tx) == ["one", "one/two", "one/two/three"]
    leaf, middle, top = find(tx, "one/two/three"), find(tx, "one/two"), find(tx, "one")
    assert leaf["parent"] == middle["id"]
    assert leaf["path"] == [top["id"], middle["id"]]
    assert (top["parent"], top["path"], leaf["basename"]) == (None, [], "three")


def test_a_name_is_used_once(tx):
    projects.create(tx, "one", **WHO)
    refused(801, projects.create, tx, "/one/", **WHO)
    assert projects.find_or_create(tx, "one", **WHO) == find(tx, "one")["id"]


@pytest.mark.parametrize(("name", "subcode"), [("ab", 800), ("", 407), ("a//bcd", 407), ("/".join(["abc"] * 11), 409)])
def test_a_bad_name_is_refused_with_its_code(tx, name, subcode):
    refused(subcode, projects.create, tx, name, **WHO)


def test_a_rename_reaches_everything_below(tx):
    projects.create(tx, "one/two/three", **WHO)
    projects.update(tx, find(tx, "one/two"), {"name": "one/deux"})
    assert names(tx) == ["one", "one/deux", "one/deux/three"]


def test_an_update_does_not_move(tx):
    projects.create(tx, "one/two", **WHO)
    refused(408, projects.update, tx, find(tx, "one/two"), {"name": "other/two"})


def test_a_move_takes_everything_below_along(tx):
    projects.create(tx, "one/two/three", **WHO)
    projects.create(tx, "new", **WHO)
    assert projects.move(tx, find(tx, "one/two"), "new/home", user="u") == 2
    assert names(tx) == ["new", "new/home", "new/home/two", "new/home/two/three", "one"]
    leaf = find(tx, "new/home/two/three")
    assert leaf["path"] == [find(tx, name)["id"] for name in ("new", "new/home", "new/home/two")]
    projects.move(tx, find(tx, "new/home/two"), "", user="u")
    assert find(tx, "two/three")["path"] == [find(tx, "two")["id"]]


def test_moves_that_make_no_sense_are_refused(tx):
    projects.create(tx, "one/two/three", **WHO)
    projects.create(tx, "two", **WHO)
    refused(412, projects.move, tx, find(tx, "one/two"), "one", user="u")
    refused(411, projects.move, tx, find(tx, "one"), "one/two", user="u")
    refused(801, projects.move, tx, find(tx, "one/two"), "", user="u")


def test_a_merge_leaves_nothing_behind(tx):
    source = projects.create(tx, "source", **WHO)
    projects.create(tx, "source/sub", **WHO)
    target = projects.create(tx, "target", **WHO)
    add_task(tx, "t1", source)
    assert projects.merge(tx, find(tx, "source"), find(tx, "target")) == (1, 1)
    assert names(tx) == ["target", "target/sub"]
    assert tx.value(sa.select(task.c.project)) == target
    assert find(tx, "target/sub")["parent"] == target
    refused(410, projects.merge, tx, find(tx, "target"), find(tx, "target/sub"))


def test_descendants_are_found_at_any_depth(tx):
    leaf = projects.create(tx, "one/two/three", **WHO)
    other = projects.create(tx, "other", **WHO)
    one = find(tx, "one")["id"]
    assert set(projects.descendants(tx, [one])) == {one, find(tx, "one/two")["id"], leaf}
    assert projects.descendants(tx, [other]) == [other]


def test_a_deleted_project_leaves_its_tasks_without_one(tx):
    gone = projects.create(tx, "gone", **WHO)
    add_task(tx, "t1", gone)
    assert projects.delete(tx, [gone]) == 1
    assert tx.value(sa.select(task.c.project)) is None


def test_public_projects_are_seen_and_not_changed(tx):
    public = projects.create(tx, "public", user="u", company="")
    assert projects.exists(tx, public, "c")
    with pytest.raises(ApiError) as error:
        projects.find_for_change(tx, public, "c")
    assert (error.value.code, error.value.subcode) == (403, 21)
    refused(401, projects.find, tx, "unknown", "c")
