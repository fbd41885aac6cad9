"""The life of tasks, queues and workers through the API, as agents and SDK use it."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import CallError, ServerProcess

_numbers = iter(range(1_000_000))


@pytest.fixture
def queue(server: ServerProcess) -> str:
    return server.new_queue(f"queue {next(_numbers)}")


def refused(server: ServerProcess, endpoint: str, **body: Any) -> tuple[int, int]:
    with pytest.raises(CallError) as error:
        server.call(endpoint, **body)
    return error.value.codes


def task_of(server: ServerProcess, task: str) -> dict[str, Any]:
    found: dict[str, Any] = server.call("tasks.get_by_id", task=task)["task"]
    return found


def waiting_in(server: ServerProcess, queue: str) -> list[str]:
    return [entry["task"] for entry in server.call("queues.get_by_id", queue=queue)["queue"]["entries"]]


# --- the main cycle


def test_a_task_goes_from_a_queue_to_completed(server: ServerProcess, queue: str) -> None:
    task = server.new_task(system_tags=["development"], script={"entry_point": "main.py"})
    reply = server.call("tasks.enqueue", task=task, queue=queue, status_reason="because")
    assert (reply["queued"], reply["updated"]) == (1, 1)
    assert reply["fields"]["status"] == "queued"
    assert reply["fields"]["execution.queue"] == queue
    assert "development" not in task_of(server, task)["system_tags"]

    server.call("workers.register", worker="host:0", queues=[queue])
    popped = server.call("queues.get_next_task", queue=queue)
    assert popped["entry"]["task"] == task
    server.call("tasks.started", task=task, status_message="pulled by agent", force=True)
    server.call("workers.status_report", worker="host:0", timestamp=1, task=task, queue=queue, queues=[queue])
    dequeued = server.call("tasks.dequeue", task=task, new_status="in_progress")
    assert (dequeued["dequeued"], dequeued["updated"]) == (1, 1)
    assert server.call("tasks.ping", task=task) == {}
    (worker,) = [found for found in server.call("workers.get_all")["workers"] if found["id"] == "host:0"]
    assert worker["task"]["id"] == task
    assert worker["queues"][0]["name"].startswith("queue ")
    assert worker["queue"]["id"] == queue

    done = server.call("tasks.completed", task=task, status_reason="worker execution done")
    assert done["published"] == 0
    found = task_of(server, task)
    assert found["status"] == "completed"
    assert found["last_worker"] == "host:0"
    assert found["status_reason"] == "worker execution done"
    assert found["status_message"] == ""
    assert found["execution"]["queue"] == queue
    assert {"started", "completed", "active_duration"} <= set(found)


def test_enqueueing_twice_is_refused_in_one_queue_and_a_move_to_another(server: ServerProcess, queue: str) -> None:
    other = server.new_queue(f"queue {next(_numbers)}")
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    assert refused(server, "tasks.enqueue", task=task, queue=queue) == (400, 706)
    assert server.status(task) == "queued"
    server.call("tasks.enqueue", task=task, queue=other)
    assert (waiting_in(server, queue), waiting_in(server, other)) == ([], [task])


def test_enqueue_finds_its_queue_by_id_by_name_or_by_default(server: ServerProcess, queue: str) -> None:
    name = f"made by name {next(_numbers)}"
    by_name = server.new_task()
    server.call("tasks.enqueue", task=by_name, queue_name=name)
    (found,) = server.call("queues.get_all", name=f"^{name}$", only_fields=["id"])["queues"]
    assert waiting_in(server, found["id"]) == [by_name]
    by_default = server.new_task()
    server.call("tasks.enqueue", task=by_default)
    assert by_default in waiting_in(server, server.call("queues.get_default")["id"])
    assert refused(server, "tasks.enqueue", task=by_name, queue=queue, queue_name=name) == (400, 12)
    watched = server.call("tasks.enqueue", task=server.new_task(), queue=queue, verify_watched_queue=True)
    assert watched["queue_watched"] is False


@pytest.mark.parametrize("way", ["dequeue", "deleted queue"])
def test_a_task_that_was_given_back_by_its_agent_is_a_draft_when_it_leaves_the_queue(
    server: ServerProcess, way: str
) -> None:
    """Not `in_progress`, as it was when it was given back: nobody runs it."""
    queue, task = server.new_queue(f"queue {next(_numbers)}"), server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    server.call("queues.get_next_task", queue=queue, task=task)
    server.call("tasks.started", task=task, status_message="Changed by clearml-agent host:0")
    server.call("tasks.enqueue", task=task, queue=queue, force=True)
    if way == "dequeue":
        server.call("tasks.dequeue", task=task)
    else:
        server.call("queues.delete", queue=queue, force=True)
    assert server.status(task) == "created"


def test_dequeue_of_an_unknown_task_is_no_error(server: ServerProcess) -> None:
    assert server.call("tasks.dequeue", task="0" * 32) == {"dequeued": 1, "updated": 0}
    assert refused(server, "tasks.dequeue", task=server.new_task(), new_status="nonsense") == (400, 12)
    assert server.call("tasks.dequeue", task=server.new_task()) == {"dequeued": 1, "updated": 0}


def test_a_forced_start_keeps_the_first_start_and_a_refused_one_changes_nothing(server: ServerProcess) -> None:
    task = server.new_task()
    first = server.call("tasks.started", task=task)["fields"]["started"]
    server.call("tasks.started", task=task, force=True)
    assert task_of(server, task)["started"] == first
    server.call("tasks.failed", task=task)
    assert refused(server, "tasks.started", task=task) == (400, 110)
    assert server.status(task) == "failed"
    assert refused(server, "tasks.completed", task=server.new_task()) == (400, 110)


def test_execute_remotely_can_enqueue_a_task_that_it_stopped(server: ServerProcess, queue: str) -> None:
    task = server.new_task(system_tags=["development"])
    server.call("tasks.started", task=task)
    server.call("tasks.completed", task=task)
    server.call("tasks.stopped", task=task, force=True)
    server.call("tasks.enqueue", task=task, queue=queue)
    assert server.call("queues.get_next_task", queue=queue)["entry"]["task"] == task


# --- content


def test_a_task_that_is_published_by_force_leaves_its_queue(server: ServerProcess, queue: str) -> None:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    server.call("tasks.publish", task=task, force=True)
    assert waiting_in(server, queue) == []


def claimed(server: ServerProcess, queue: str, claim: str) -> str:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    server.call("queues.get_next_task", queue=queue, task=task, claim=claim)
    return task


def test_a_start_with_the_claim_of_its_pop_is_taken(server: ServerProcess, queue: str) -> None:
    task = claimed(server, queue, "mine")
    assert server.call("tasks.started", task=task, claim="mine")["fields"]["status"] == "in_progress"


@pytest.mark.parametrize("said", ["stopped", "reset", "queued again", "popped by another"])
def test_a_start_with_a_claim_does_not_overrule_what_was_said_since(
    server: ServerProcess, queue: str, said: str
) -> None:
    task = claimed(server, queue, "mine")
    if said == "stopped":
        server.call("tasks.stop", task=task)
    elif said == "reset":
        server.call("tasks.reset", task=task, force=True)
    else:
        server.call("tasks.enqueue", task=task, queue=queue)
    if said == "popped by another":
        server.call("queues.get_next_task", queue=queue, task=task, claim="theirs")
    before = task_of(server, task)["status"]
    assert refused(server, "tasks.started", task=task, claim="mine") == (400, 110)
    assert task_of(server, task)["status"] == before
    assert waiting_in(server, queue) == ([task] if said == "queued again" else [])


def test_a_start_with_a_claim_survives_an_edit_in_between(server: ServerProcess, queue: str) -> None:
    task = claimed(server, queue, "mine")
    server.call("tasks.edit", task=task, name="another name", force=True)
    assert server.call("tasks.started", task=task, claim="mine")["fields"]["status"] == "in_progress"


def test_an_edit_of_a_started_task_needs_force(server: ServerProcess) -> None:
    task = server.new_task()
    server.call("tasks.edit", task=task, comment="as a draft")
    server.call("tasks.started", task=task)
    assert refused(server, "tasks.edit", task=task, comment="running") == (400, 110)
    reply = server.call("tasks.edit", task=task, force=True, comment="forced", runtime={"a": 1}, script={"branch": "b"})
    assert reply["updated"] == 1
    found = task_of(server, task)
    assert (found["comment"], found["runtime"], found["script"]["branch"]) == ("forced", {"a": 1}, "b")
    assert found["script"]["binary"] == "python"


def test_a_clone_has_the_content_and_none_of_the_results(server: ServerProcess, queue: str) -> None:
    params = {"Args": {"lr": {"section": "Args", "name": "lr", "value": "0.1"}}}
    artifacts = [{"key": "in", "type": "x", "mode": "input"}, {"key": "out", "type": "x"}]
    task = server.new_task(
        hyperparams=params,
        script={"diff": "the diff"},
        tags=["keep"],
        system_tags=["development"],
        container={"image": "i"},
        runtime={"a": 1},
        execution={"artifacts": artifacts},
        output_dest="s3://bucket",
    )
    server.call("tasks.enqueue", task=task, queue=queue)
    clone = server.call("tasks.clone", task=task, new_task_name="the clone", new_task_parent=task)["id"]
    found = task_of(server, clone)
    assert (found["name"], found["parent"], found["status"]) == ("the clone", task, "created")
    assert (found["hyperparams"], found["script"]["diff"], found["container"]) == (params, "the diff", {"image": "i"})
    assert (found["tags"], found["system_tags"], found["runtime"]) == (["keep"], [], {})
    assert [item["key"] for item in found["execution"]["artifacts"]] == ["in"]
    assert "queue" not in found["execution"]
    assert found["output"] == {"destination": "s3://bucket"}


def test_parameters_and_configuration_have_endpoints_of_their_own(server: ServerProcess) -> None:
    task = server.new_task()
    params = [{"section": "Args", "name": "a.b/c", "value": "1"}, {"section": "properties", "name": "v", "value": "2"}]
    server.call("tasks.edit_hyper_params", task=task, hyperparams=params)
    (got,) = server.call("tasks.get_hyper_params", tasks=[task])["params"]
    assert got == {"task": task, "hyperparams": params}
    server.call("tasks.edit_configuration", task=task, configuration=[{"name": "c", "value": "text", "type": "json"}])
    (got,) = server.call("tasks.get_configurations", tasks=[task], names=["c"])["configurations"]
    assert got["configuration"] == [{"name": "c", "value": "text", "type": "json"}]
    assert server.call("tasks.get_configuration_names", tasks=[task])["configurations"][0]["names"] == ["c"]

    server.call("tasks.started", task=task)
    server.call("tasks.completed", task=task)
    assert refused(server, "tasks.edit_hyper_params", task=task, hyperparams=params) == (400, 110)
    server.call("tasks.edit_hyper_params", task=task, hyperparams=[{**params[1], "value": "3"}])
    assert task_of(server, task)["hyperparams"]["properties"]["v"]["value"] == "3"
    server.call("tasks.reset", task=task)
    server.call("tasks.delete_hyper_params", task=task, hyperparams=[{"section": "Args"}])
    server.call("tasks.delete_configuration", task=task, configuration=["c"])
    found = task_of(server, task)
    assert (list(found["hyperparams"]), found["configuration"]) == (["properties"], {})


def test_artifacts_are_merged_and_come_back_sorted(server: ServerProcess) -> None:
    task = server.new_task()
    server.call("tasks.started", task=task)
    item = {"key": "b", "type": "dict", "uri": "u", "content_size": 5, "timestamp": 1, "type_data": {"preview": "p"}}
    server.call("tasks.add_or_update_artifacts", task=task, force=True, artifacts=[item])
    server.call("tasks.add_or_update_artifacts", task=task, artifacts=[{"key": "a", "type": "x"}])
    assert task_of(server, task)["execution"]["artifacts"] == [
        {"key": "a", "type": "x", "mode": "output"},
        {**item, "mode": "output"},
    ]
    server.call("tasks.delete_artifacts", task=task, artifacts=[{"key": "b"}])
    assert [found["key"] for found in task_of(server, task)["execution"]["artifacts"]] == ["a"]


def test_requirements_replace_what_was_there_in_any_status(server: ServerProcess) -> None:
    task = server.new_task(script={"requirements": {"pip": "old", "conda": ""}})
    server.call("tasks.started", task=task)
    server.call("tasks.set_requirements", task=task, requirements={"pip": "numpy==1\n", "org_pip": "numpy"})
    assert task_of(server, task)["script"]["requirements"] == {"pip": "numpy==1\n", "org_pip": "numpy"}


def test_runtime_keys_can_be_set_one_by_one(server: ServerProcess) -> None:
    task = server.new_task(runtime={"a": 1, "b": 2})
    server.call("tasks.edit_runtime", task=task, runtime={"b": 3, "c": 4})
    assert task_of(server, task)["runtime"] == {"a": 1, "b": 3, "c": 4}


# --- the end


def test_a_reset_forgets_the_run_and_leaves_the_queue(server: ServerProcess, queue: str) -> None:
    task = server.new_task()
    server.call("tasks.started", task=task)
    server.call("tasks.edit", task=task, force=True, runtime={"a": 1})
    server.call("tasks.add_or_update_artifacts", task=task, artifacts=[{"key": "a", "type": "x"}])
    server.call("tasks.failed", task=task)
    server.call("tasks.enqueue", task=task, queue=queue)
    reply = server.call("tasks.reset", task=task)
    assert reply["dequeued"] == {"removed": 1}
    found = task_of(server, task)
    assert (found["status"], found["status_reason"], found["runtime"]) == ("created", "reset", {})
    assert found["execution"] == {"artifacts": []}
    assert {"started", "completed", "last_worker"}.isdisjoint(found)
    assert waiting_in(server, queue) == []


def test_a_published_task_refuses_what_would_change_it(server: ServerProcess) -> None:
    task = server.new_task()
    server.call("tasks.started", task=task)
    assert server.call("tasks.completed", task=task, publish=True)["published"] == 1
    assert server.status(task) == "published"
    assert refused(server, "tasks.reset", task=task) == (400, 110)
    assert refused(server, "tasks.edit", task=task, comment="x") == (400, 110)
    assert refused(server, "tasks.delete", task=task) == (400, 123)


def test_a_delete_takes_the_queue_entry_along_and_buries_the_parent(server: ServerProcess, queue: str) -> None:
    task = server.new_task()
    child = server.new_task(parent=task)
    server.call("tasks.enqueue", task=task, queue=queue)
    assert refused(server, "tasks.delete", task=task) == (400, 123)
    assert server.call("tasks.delete", task=task, force=True)["deleted"] is True
    assert waiting_in(server, queue) == []
    assert task_of(server, child)["parent"] == f"__DELETED__{task}"
    assert refused(server, "tasks.get_by_id", task=task) == (400, 101)


def test_many_at_once_report_failures_one_by_one(server: ServerProcess, queue: str) -> None:
    good, missing = server.new_task(), "0" * 32
    reply = server.call("tasks.enqueue_many", ids=[good, missing], queue=queue)
    assert [item["id"] for item in reply["succeeded"]] == [good]
    assert reply["succeeded"][0]["queued"] == 1
    assert reply["failed"][0]["id"] == missing
    assert reply["failed"][0]["error"]["codes"] == [400, 101]
    server.call("tasks.archive_many", ids=[good])
    found = task_of(server, good)
    assert (found["status"], found["system_tags"]) == ("created", ["archived"])
    assert waiting_in(server, queue) == []
    server.call("tasks.unarchive_many", ids=[good])
    assert task_of(server, good)["system_tags"] == []


def test_hidden_tasks_are_shown_only_when_asked_for(server: ServerProcess) -> None:
    task = server.new_task("to be hidden", system_tags=["hidden"])
    query = {"name": "^to be hidden$", "only_fields": ["id"]}
    assert server.call("tasks.get_all", **query, search_hidden=False)["tasks"] == []
    assert server.call("tasks.get_all", **query, search_hidden=True)["tasks"] == [{"id": task}]
    assert server.call("tasks.get_all", id=[task], only_fields=["id"], search_hidden=False)["tasks"] == [{"id": task}]


def test_the_ex_forms_join_references(server: ServerProcess, queue: str) -> None:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    (found,) = server.call("tasks.get_all_ex", id=[task])["tasks"]
    assert found["user"]["name"] == "gpufleet"
    assert found["company"]["name"] == "clearml"
    assert found["execution"]["queue"]["id"] == queue
    (shown,) = server.call("queues.get_all_ex", id=[queue])["queues"]
    assert shown["entries"][0]["task"] == {"id": task, "name": "a task"}


def test_old_clients_see_the_container_as_a_command(server: ServerProcess) -> None:
    task = server.new_task(container={"image": "i:1", "arguments": "-v x"})
    assert server.call("v2.5/tasks.get_by_id", task=task)["task"]["execution"]["docker_cmd"] == "i:1 -v x"
    assert "docker_cmd" not in server.call("v2.23/tasks.get_by_id", task=task)["task"]["execution"]


# --- queues and workers


def test_moves_answer_with_the_place(server: ServerProcess, queue: str) -> None:
    tasks = [server.new_task() for _ in range(4)]
    for task in tasks:
        server.call("queues.add_task", queue=queue, task=task)
    assert server.call("queues.move_task_forward", queue=queue, task=tasks[3], count=2) == {"position": 1}
    assert server.call("queues.move_task_backward", queue=queue, task=tasks[0], count=9) == {"position": 3}
    assert server.call("queues.move_task_to_front", queue=queue, task=tasks[2]) == {"position": 0}
    assert server.call("queues.move_task_to_back", queue=queue, task=tasks[2]) == {"position": 3}
    assert waiting_in(server, queue) == [tasks[3], tasks[1], tasks[0], tasks[2]]
    assert server.call("queues.peek_task", queue=queue) == {"task": tasks[3]}
    assert server.call("queues.remove_task", queue=queue, task=tasks[3]) == {"removed": 1}
    assert refused(server, "queues.remove_task", queue=queue, task=tasks[3]) == (400, 703)
    assert refused(server, "queues.move_task_forward", queue=queue, task=tasks[3]) == (400, 703)
    assert refused(server, "queues.move_task_forward", queue=queue, task=tasks[0], count=0) == (400, 12)
    assert refused(server, "queues.add_task", queue=queue, task=tasks[0]) == (400, 706)
    assert refused(server, "queues.add_task", queue=queue, task="0" * 32) == (400, 101)


def test_a_queue_is_deleted_when_nobody_needs_it(server: ServerProcess, queue: str) -> None:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    assert refused(server, "queues.delete", queue=queue) == (400, 702)
    server.call("queues.delete", queue=queue, force=True)
    found = task_of(server, task)
    assert (found["status"], "was deleted" in found["status_reason"]) == ("created", True)
    assert refused(server, "queues.get_by_id", queue=queue) == (400, 701)
    watched = server.new_queue(f"queue {next(_numbers)}")
    server.call("workers.register", worker="listener:0", queues=[watched])
    assert refused(server, "queues.delete", queue=watched) == (400, 702)
    server.call("workers.unregister", worker="listener:0")
    server.call("queues.delete", queue=watched)


def test_queue_tags_steer_workers_and_names_are_checked(server: ServerProcess, queue: str) -> None:
    assert server.call("queues.update", queue=queue, tags=["force_workers:on"])["updated"] == 1
    assert server.call("queues.get_all", id=[queue], only_fields=["id", "tags"])["queues"] == [
        {"id": queue, "tags": ["force_workers:on"]}
    ]
    assert refused(server, "queues.update", queue=queue, name="default") == (400, 801)
    assert server.call("queues.get_all", name="^default$", only_fields=["name"])["queues"][0]["name"] == "default"


def test_clearing_a_queue_sends_tasks_back(server: ServerProcess, queue: str) -> None:
    tasks = [server.new_task() for _ in range(2)]
    for task in tasks:
        server.call("tasks.enqueue", task=task, queue=queue)
    assert server.call("queues.clear_queue", queue=queue) == {"removed_tasks": tasks}
    assert {server.status(task) for task in tasks} == {"created"}


def test_a_worker_reports_and_is_forgotten_when_it_says_so(server: ServerProcess, queue: str) -> None:
    server.call("workers.register", worker="w:1", queues=[queue], tags=["fast"], timeout=300)
    server.call(
        "workers.status_report", worker="w:1", timestamp=1, machine_stats={"cpu_usage": [1.5], "memory_used": None}
    )
    (found,) = server.call("workers.get_all", worker_pattern="w:*", tags=["fast"])["workers"]
    assert found["register_timeout"] == 300
    assert "task" not in found
    assert server.call("workers.get_all", worker_pattern="no*")["workers"] == []
    assert server.call("workers.get_all", worker_pattern="w:*", tags=["-fast"])["workers"] == []
    server.call("workers.unregister", worker="w:1")
    server.call("workers.unregister", worker="w:1")
    assert server.call("workers.get_all", worker_pattern="w:*")["workers"] == []


def test_a_refused_report_refreshes_the_worker_anyway(server: ServerProcess) -> None:
    assert refused(server, "workers.status_report", worker="v:1", timestamp=1, task="0" * 32) == (400, 101)
    assert len(server.call("workers.get_all", worker_pattern="v:1")["workers"]) == 1


def test_runtime_properties_expire_and_compare(server: ServerProcess) -> None:
    def properties() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.call("workers.get_runtime_properties", worker="r:1")["runtime_properties"]
        return found

    def put(**item: Any) -> None:
        server.call("workers.set_runtime_properties", worker="r:1", runtime_properties=[{"key": "force", **item}])

    assert properties() == []
    put(value="on", expiry=1)
    assert properties()[0]["value"] == "on"
    server.wait_until(lambda: not properties())
    put(value=5)
    assert properties() == [{"key": "force", "value": "5"}]
    put(value="6", if_value="other")
    assert properties()[0]["value"] == "5"
    put(value="x", expiry=0)
    assert properties() == []


def test_models_are_made_edited_used_and_deleted(server: ServerProcess) -> None:
    task = server.new_task()
    made = server.call("models.create", uri="file:///m", name="a model", ready=False, labels={"cat": 1})
    model = made["id"]
    assert made["created"] is True
    server.call("models.edit", model=model, framework="PyTorch", design={"design": ""}, task=task, tags=["t"])
    server.call("tasks.add_or_update_model", task=task, name="out", model=model, type="output")
    (listed,) = task_of(server, task)["models"]["output"]
    assert (listed["name"], listed["model"]) == ("out", model)
    server.call("models.add_or_update_metadata", model=model, metadata=[{"key": "k", "type": "str", "value": "v"}])
    found = server.call("models.get_by_id", model=model)["model"]
    assert found["metadata"] == {"k": {"key": "k", "type": "str", "value": "v"}}
    assert (found["ready"], found["framework"]) == (False, "PyTorch")
    assert server.call("models.get_all", task=[task], only_fields=["uri"])["models"] == [
        {"id": model, "uri": "file:///m"}
    ]
    assert server.call("models.set_ready", model=model, publish_task=False)["updated"] == 1
    assert refused(server, "models.set_ready", model=model) == (400, 203)
    assert refused(server, "models.edit", model=model, labels={"cat": "one"}) == (400, 12)
    assert server.call("models.delete", model=model, force=True) == {"deleted": True, "url": "file:///m"}
    assert refused(server, "models.get_by_id", model=model) == (400, 201)
