"""Projects over HTTP, in the forms that the SDK and a web page ask for."""

from itertools import count

import pytest
from support.apiserver import CallError

numbers = count()


@pytest.fixture
def root():
    """The name of a project that no other test uses."""
    return f"root {next(numbers)}"


def refused(server, endpoint, **fields):
    with pytest.raises(CallError) as error:
        server.call(endpoint, **fields)
    return error.value.codes


def create(server, name, **more):
    return server.call("projects.create", name=name, **more)["id"]


def find(server, **query):
    return [project["name"] for project in server.call("projects.get_all", order_by=["name"], **query)["projects"]]


def test_a_project_is_found_by_its_exact_name_as_the_sdk_asks(server, root):
    project = create(server, f"{root}/sub (1)", description="")
    query = {"only_fields": ["id"], "search_hidden": True, "shallow_search": False}
    name = f"^{root}/sub\\ \\(1\\)$"
    assert server.call("projects.get_all", name=name, **query)["projects"] == [{"id": project}]
    assert server.call("projects.get_all", name=f"^{root}/su$", **query)["projects"] == []


def test_a_project_comes_back_whole(server, root):
    values = {"description": "d", "tags": ["b", "a"], "system_tags": [], "default_output_destination": "s3://bucket"}
    project = create(server, f"{root}/leaf", **values)
    found = server.call("projects.get_by_id", project=project)["project"]
    assert (found["name"], found["basename"], found["tags"]) == (f"{root}/leaf", "leaf", ["a", "b"])
    assert found["default_output_destination"] == "s3://bucket"
    parent = server.call("projects.get_by_id", project=found["parent"])["project"]
    assert (parent["name"], parent["tags"], parent["system_tags"]) == (root, [], [])


def test_hidden_projects_are_seen_by_those_who_ask(server, root):
    create(server, f"{root}/plain")
    hidden = create(server, f"{root}/.datasets")
    server.call("projects.update", project=hidden, system_tags=["hidden"])
    assert find(server, name=f"^{root}/") == [f"{root}/plain"]
    assert find(server, name=f"^{root}/", search_hidden=True) == [f"{root}/.datasets", f"{root}/plain"]
    assert find(server, id=[hidden]) == [f"{root}/.datasets"]


def test_a_parent_means_everything_below_unless_the_search_is_shallow(server, root):
    create(server, f"{root}/one/two")
    (top,) = server.call("projects.get_all", name=f"^{root}$")["projects"]
    assert find(server, parent=[top["id"]]) == [f"{root}/one", f"{root}/one/two"]
    assert find(server, parent=[top["id"]], shallow_search=True) == [f"{root}/one"]
    assert f"{root}/one" not in find(server, shallow_search=True)
    assert root in find(server, shallow_search=True)


def test_pages_end_with_an_empty_one(server, root):
    for number in range(5):
        create(server, f"{root}/p{number}xx")
    pages = [find(server, name=f"^{root}/", page=page, page_size=2) for page in range(4)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]


def test_updates_say_what_they_changed(server, root):
    project = create(server, root)
    reply = server.call("projects.update", project=project, description="new", tags=["t"])
    assert (reply["updated"], reply["fields"]["description"]) == (1, "new")
    assert refused(server, "projects.update", project="0" * 32, description="x") == (400, 401)
    assert refused(server, "projects.update", project=project, name="elsewhere/x12") == (400, 408)


@pytest.mark.parametrize(
    ("name", "subcode"), [("ab", 800), ("", 407), ("aaa//bbb", 407), ("/".join(["abc"] * 11), 409)]
)
def test_bad_names_are_refused(server, name, subcode):
    assert refused(server, "projects.create", name=name) == (400, subcode)


def test_a_missing_project_and_a_missing_field_are_told_apart(server, root):
    create(server, root)
    assert refused(server, "projects.create", name=root) == (400, 801)
    assert refused(server, "projects.create") == (400, 12)
    assert refused(server, "projects.get_by_id") == (400, 12)
    assert refused(server, "projects.get_by_id", project="0" * 32) == (400, 401)


def test_projects_are_moved_and_merged(server, root):
    project = create(server, f"{root}/one/two")
    assert server.call("projects.move", project=project, new_location=f"{root}/else") == {"moved": 1}
    target = create(server, f"{root}/target")
    task = server.new_task(project=project)
    assert server.call("projects.merge", project=project, destination_project=target)["moved_entities"] == 1
    assert server.call("tasks.get_by_id", task=task)["task"]["project"] == target
    assert find(server, name=f"^{root}") == [root, f"{root}/else", f"{root}/one", f"{root}/target"]


def test_a_project_with_tasks_is_deleted_only_by_force(server, root):
    project = create(server, root)
    task = server.new_task(project=project)
    assert refused(server, "projects.delete", project=project) == (400, 402)
    counted = server.call("projects.validate_delete", project=project)
    assert (counted["tasks"], counted["models"]) == (1, 0)
    assert server.call("projects.delete", project=project, force=True)["disassociated_tasks"] == 1
    assert "project" not in server.call("tasks.get_by_id", task=task)["task"]


def test_a_project_is_deleted_with_its_contents_when_asked(server, root):
    project = create(server, f"{root}/sub")
    task = server.new_task(project=project)
    top = server.call("projects.get_by_id", project=project)["project"]["parent"]
    reply = server.call("projects.delete", project=top, force=True, delete_contents=True)
    assert (reply["deleted"], reply["deleted_tasks"]) == (2, 1)
    assert refused(server, "tasks.get_by_id", task=task) == (400, 101)


def test_an_overview_counts_what_is_in_a_project(server, root):
    project = create(server, f"{root}/sub")
    server.new_task(project=project)
    server.new_task(project=project, system_tags=["archived"])
    query = {"name": f"^{root}$", "include_stats": True, "check_own_contents": True}
    (found,) = server.call("projects.get_all_ex", **query)["projects"]
    assert found["stats"]["active"]["total_tasks"] == 1
    assert found["stats"]["archived"]["status_count"] == {"created": 1}
    assert found["sub_projects"] == [{"id": project, "name": f"{root}/sub"}]
    assert found["own_tasks"] == 0


def test_tags_in_use_are_listed(server, root):
    project = create(server, root, tags=["p"])
    server.new_task(project=project, tags=["b", "a"], system_tags=["development"])
    reply = server.call("projects.get_task_tags", projects=[project], include_system=True)
    assert reply == {"tags": ["a", "b"], "system_tags": ["development"]}
    assert server.call("projects.get_project_tags", projects=[project]) == {"tags": ["p"]}


def test_what_happens_in_a_project_keeps_it_young(server, root):
    project = create(server, root)
    before = server.call("projects.get_by_id", project=project)["project"]["last_update"]
    task = server.new_task(project=project)
    server.call("tasks.started", task=task)
    assert server.call("projects.get_by_id", project=project)["project"]["last_update"] > before
