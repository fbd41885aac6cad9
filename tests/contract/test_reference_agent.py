"""The real `clearml-agent` 3.0.3 takes a task from our server and runs it to its end."""

import contextlib
import os
import signal
import time

import pytest
from support.reference_agent import agent_environment, reference_agent, run, start_daemon

SCRIPT = """
import os
print("hello from", os.environ["CLEARML_TASK_ID"])
for number in range(20):
    print("line", number, "äöü")
"""


SDK_SCRIPT = """
import argparse
from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
task = Task.init(project_name="ignored", task_name="ignored")
args = parser.parse_args()
task.get_logger().report_scalar("loss", "train", value=args.lr, iteration=1)
print("the rate is", args.lr, "in", task.id, flush=True)
"""


@pytest.fixture(scope="module")
def agent():
    return reference_agent()


@pytest.fixture
def daemon(server, agent, tmp_path):
    log = tmp_path / "daemon.log"
    daemon = start_daemon(agent, "default", env=agent_environment(server.conf_path, tmp_path), log=log)
    yield daemon
    stop(daemon)
    print(log.read_text(errors="replace"))


def stop(daemon):
    """Ctrl-C, as in a terminal; the whole group dies if that is not enough."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(daemon.pid, signal.SIGINT)
    try:
        daemon.wait(20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait(10)


def queued(server, code, **fields):
    script = {"binary": "python", "entry_point": "script.py", "diff": code, "repository": ""}
    task = server.new_task("literal script", script=script, **fields)
    server.call("tasks.enqueue", task=task, queue_name="default")
    return task


def ended(server, task, seconds=60):
    """The task once it is neither queued nor running."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = server.call("tasks.get_by_id", task=task)["task"]
        if found["status"] not in ("queued", "in_progress"):
            return found
        time.sleep(0.2)
    raise AssertionError(f"still {found['status']}: {found['status_message']}\n{console(server, task)}")


def console(server, task):
    reply = server.call("events.get_task_log", task=task, batch_size=5_000, order="asc")
    return "\n".join(event["msg"] for event in reply["events"])


def test_tasks_are_run_to_their_end_with_their_console(server, daemon):
    good = queued(server, SCRIPT)
    bad = queued(server, "print('about to fail', flush=True)\nraise SystemExit(3)\n")
    found = ended(server, good)
    text = console(server, good)
    assert found["status"] == "completed", text
    assert f"hello from {good}" in text
    assert [line for line in text.splitlines() if line.startswith("line ")] == [f"line {n} äöü" for n in range(20)]
    assert found["last_worker"]
    found = ended(server, bad)
    assert (found["status"], found["status_reason"]) == ("failed", "worker execution exit code 3")
    assert "about to fail" in console(server, bad)


def test_the_values_on_the_server_reach_a_script_that_uses_the_sdk(server, daemon):
    rate = {"section": "Args", "name": "lr", "value": "0.5", "type": "float"}
    task = queued(server, SDK_SCRIPT, hyperparams={"Args": {"lr": rate}})
    found = ended(server, task)
    text = console(server, task)
    assert found["status"] == "completed", text
    assert f"the rate is 0.5 in {task}" in text
    assert server.call("events.scalar_metrics_iter_histogram", task=task)["loss"]["train"]["y"] == [0.5]


def test_workers_are_listed_while_they_are_there_and_leave_with_their_daemon(server, agent, daemon, tmp_path):
    env = agent_environment(server.conf_path, tmp_path)
    deadline = time.monotonic() + 30
    while not (workers := server.call("workers.get_all", last_seen=60)["workers"]):
        assert time.monotonic() < deadline, "the daemon does not report"
        time.sleep(0.2)
    listed = run(agent, "list", env=env)
    assert listed.returncode == 0, listed.stderr
    assert workers[0]["id"] in listed.stdout
    stop(daemon)
    assert workers[0]["id"] not in [worker["id"] for worker in server.call("workers.get_all", last_seen=60)["workers"]]


def test_a_running_task_is_aborted_from_the_server(server, daemon):
    task = queued(server, "import time\nprint('running', flush=True)\ntime.sleep(300)\n")
    deadline = time.monotonic() + 60
    while "running" not in console(server, task):
        assert time.monotonic() < deadline, console(server, task)
        time.sleep(0.2)
    server.call("tasks.stop", task=task)
    assert ended(server, task)["status"] == "stopped"
