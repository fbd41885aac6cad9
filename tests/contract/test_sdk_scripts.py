"""The real SDK, in scripts as users write them, against our server."""

import hashlib

import pytest
from support.sdk import run_script


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A task that a script has reported, ended and left on the server."""
    home = tmp_path_factory.mktemp("train")
    done = run_script("train", "--lr", "0.25", config=server.conf_path, home=home)
    assert done.code == 0, done.output
    assert done.result, done.output
    return done.result


@pytest.fixture(scope="module")
def seen(server, trained, tmp_path_factory):
    """What another process reads of that task with the SDK."""
    done = run_script("read_back", trained["task"], config=server.conf_path, home=tmp_path_factory.mktemp("read"))
    assert done.code == 0, done.output
    return done.result


def test_the_script_ran_with_its_own_values(trained):
    assert (trained["lr"], trained["epochs"], trained["model"]["layers"]) == (0.25, 3, 2)


def test_the_task_is_completed_and_says_what_it_was(server, trained):
    task = server.call("tasks.get_by_id", task=trained["task"])["task"]
    assert task["status"] == "completed"
    assert task["name"] == "train ± 訓練"
    assert task["tags"] == ["first"]
    assert task["comment"] == "a task of the tests"
    assert task["script"]["entry_point"].endswith("train.py")
    assert "Task.init" in task["script"]["diff"]
    project = server.call("projects.get_by_id", project=task["project"])["project"]
    assert (project["name"], project["basename"]) == ("Größe/日本語 проект", "日本語 проект")


def test_arguments_and_connected_values_are_on_the_server(server, trained):
    task = server.call("tasks.get_by_id", task=trained["task"])["task"]
    assert task["hyperparams"]["Args"]["lr"]["value"] == "0.25"
    assert task["hyperparams"]["Model"]["nested/deep"]["value"] == "1.5"


def test_the_task_is_found_by_name_project_tag_and_status(trained, seen):
    assert seen["status"] == "completed"
    assert seen["same_by_name"]
    assert seen["found"] == [trained["task"]]
    assert seen["project"] == "Größe/日本語 проект"
    assert seen["parameters"]["Args/lr"] == "0.25"


def test_curves_come_back(seen):
    assert seen["scalars"]["loss"]["train"]["x"] == [0, 1, 2]
    assert seen["scalars"]["loss"]["train"]["y"] == pytest.approx([0.25, 0.125, 0.25 / 3])
    assert seen["last"]["loss"]["train"]["last"] == pytest.approx(0.25 / 3)
    assert seen["last"]["loss"]["train"]["max"] == pytest.approx(0.25)
    assert seen["iteration"] == 2
    assert seen["single"]["accuracy"] == 0.875


def test_the_console_comes_back(seen):
    text = "\n".join(seen["console"])
    assert "printed line äöü" in text
    assert "reported text" in text


def test_plots_come_back(seen):
    plots = {(metric, variant): content for metric, variant, content in seen["plots"]}
    assert {metric for metric, _ in plots} == {"curve", "free", "points"}
    assert plots["free", "form"]["data"][0]["y"] == [3, 4]


def test_artifacts_come_back_whatever_they_are_called(seen):
    assert seen["artifact"] == {"answer": 42, "text": "ünïcödé"}
    content = "content " * 1000
    assert seen["file"] == content
    assert seen["artifact_size"] == len(content)
    assert seen["artifact_hash"] == hashlib.sha256(content.encode()).hexdigest()


def test_a_clone_is_edited_queued_taken_back_and_run_with_its_values(server, trained, tmp_path):
    done = run_script("clone_and_queue", trained["task"], config=server.conf_path, home=tmp_path)
    assert done.code == 0, done.output
    assert done.result["statuses"] == ["created", "queued", "created"]
    assert done.result["waited"] == "completed"
    clone = done.result["clone"]
    assert done.result["parent"] == trained["task"]

    run = run_script("train", config=server.conf_path, home=tmp_path / "run", env={"CLEARML_TASK_ID": clone})
    assert run.code == 0, run.output
    assert run.result["task"] == clone
    assert (run.result["lr"], run.result["epochs"], run.result["model"]["layers"]) == (0.5, 2, 7)
    scalars = server.call("events.scalar_metrics_iter_histogram", task=clone)
    assert scalars["loss"]["train"]["x"] == [0, 1]


def test_a_script_sends_itself_to_a_queue(server, tmp_path):
    done = run_script("remote", config=server.conf_path, home=tmp_path)
    assert done.code == 0, done.output
    assert "NOT HERE" not in done.output
    task = server.call("tasks.get_by_id", task=done.result["task"])["task"]
    assert task["status"] == "queued"
    queue = server.call("queues.get_by_id", queue=task["execution"]["queue"])["queue"]
    assert [entry["task"] for entry in queue["entries"]] == [task["id"]]
    server.call("tasks.dequeue", task=task["id"])


def test_models_data_sets_and_images_work_too(server, tmp_path):
    done = run_script("data_and_models", config=server.conf_path, home=tmp_path)
    assert done.code == 0, done.output
    (image,) = done.result.pop("images")
    assert image.startswith(f"{server.files}/")
    assert done.result == {
        "picture": True,
        "weights": True,
        "plots": ["histogram", "table"],
        "datasets": ["b.txt", "ä.txt"],
        "versions": 2,
        "imported": "everything else",
        "deleted": True,
    }
