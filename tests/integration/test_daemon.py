"""The daemon, its executor and the embedded server as real processes: a task's life, and what it outlives."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support.agent import (
    AgentProcess,
    agent_on,
    console_of,
    create_script,
    is_alive,
    status_of,
    wait_for,
    wait_for_status,
)
from support.apiserver import ServerProcess

COUNT_TO = """
import sys, time
for n in range({lines}):
    print(f"line {{n}}", flush=True)
    time.sleep({pause})
sys.exit({code})
"""

SPAWNER = """
import os, subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
print(f"pids {os.getpid()} {child.pid}", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def shared_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


def expected(lines: int) -> list[str]:
    return [f"line {n}" for n in range(lines)]


def test_a_script_runs_to_completed_with_its_console_whole(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = create_script(server, COUNT_TO.format(lines=300, pause=0, code=0))
        done = wait_for_status(server, task, "completed", "failed")
        assert (done["status"], done["status_reason"]) == ("completed", "worker execution done")
        assert done["status_message"] == "Changed by clearml-agent testhost:0"
        assert done["last_worker"] == "testhost:0"
        assert console_of(server, task, level="DEBUG") == expected(300)
        notices = console_of(server, task, level="INFO")
        assert notices[0] == f"task {task} pulled from default by worker testhost:0"
        assert notices[-1] == "Process completed successfully"


def test_the_exit_code_of_a_script_is_its_tasks_reason(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path) as agent:
        task = create_script(server, COUNT_TO.format(lines=1, pause=0, code=3))
        done = wait_for_status(server, task, "completed", "failed")
        assert (done["status"], done["status_reason"]) == ("failed", "worker execution exit code 3")
        wait_for(lambda: not agent.runs(), what="the run directory is gone after its report")


def test_an_abort_ends_the_whole_process_group(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0):
        task = create_script(server, SPAWNER)
        line = wait_for(lambda: [x for x in console_of(server, task) if x.startswith("pids")], what="pids")[0]
        pids = [int(word) for word in line.split()[1:]]
        server.call("tasks.stop", task=task)
        asked = time.monotonic()
        done = wait_for_status(server, task, "stopped")
        assert time.monotonic() - asked < 2.0 + 1.0 + 1.0
        assert done["status_reason"] == "task was stopped by tasks.stop"
        assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "restart"])
def test_a_running_task_outlives_its_agent_and_is_adopted(
    server: ServerProcess, tmp_path: Path, how: signal.Signals
) -> None:
    with agent_on(server, tmp_path) as agent:
        task = create_script(server, COUNT_TO.format(lines=80, pause=0.05, code=7))
        wait_for(lambda: "line 5" in console_of(server, task), what="first lines")
        agent.signal(how)
        assert status_of(server, task) == "in_progress"
        agent.restart().wait_until_ready()
        wait_for(lambda: f"task {task} still runs: adopted" in agent.log.read_text(), what="adoption")
        assert status_of(server, task) == "in_progress"
        done = wait_for_status(server, task, "completed", "failed", "stopped")
        assert (done["status"], done["status_reason"]) == ("failed", "worker execution exit code 7")
        assert console_of(server, task, level="DEBUG") == expected(80)


def test_a_task_that_ends_while_no_agent_is_there_is_reported_by_the_next(
    server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path) as agent:
        task = create_script(server, COUNT_TO.format(lines=20, pause=0.05, code=0))
        wait_for(lambda: "line 1" in console_of(server, task), what="first lines")
        agent.kill()
        outcome = agent.runs()[0] / "outcome.json"
        wait_for(outcome.exists, what="the executor ends by itself")
        assert status_of(server, task) == "in_progress"
        agent.restart().wait_until_ready()
        wait_for_status(server, task, "completed")
        assert console_of(server, task, level="DEBUG") == expected(20)


def test_ctrl_c_ends_the_task_and_says_so(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path) as agent:
        task = create_script(server, COUNT_TO.format(lines=2000, pause=0.05, code=0))
        wait_for(lambda: "line 1" in console_of(server, task), what="first lines")
        assert agent.signal(signal.SIGINT) == 0
        done = server.call("tasks.get_by_id", task=task)["task"]
        assert (done["status"], done["status_reason"]) == ("stopped", "user abort")
        assert agent.runs() == []


def test_an_idle_agent_leaves_at_once_and_takes_its_name_off_the_list(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path, worker_id="testhost:leaver") as agent:

        def listed() -> bool:
            workers = server.call("workers.get_all", last_seen=0)["workers"]
            return "testhost:leaver" in [worker["id"] for worker in workers]

        wait_for(listed, what="the worker is on the list")
        began = time.monotonic()
        assert agent.signal(signal.SIGTERM) == 0
        assert time.monotonic() - began < 3.0
        assert not listed()


def test_an_outage_of_the_server_costs_no_line(server: ServerProcess, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as own, agent_on(own, tmp_path / "state"):
        task = create_script(own, COUNT_TO.format(lines=60, pause=0.05, code=0))
        wait_for(lambda: "line 5" in console_of(own, task), what="first lines")
        own.kill()
        own.restart()
        wait_for_status(own, task, "completed", seconds=60)
        assert console_of(own, task, level="DEBUG") == expected(60)


def test_two_agents_share_a_queue_and_no_task_runs_twice(server: ServerProcess, tmp_path: Path) -> None:
    tasks = [create_script(server, COUNT_TO.format(lines=2, pause=0, code=0)) for _ in range(8)]
    with agent_on(server, tmp_path, worker_id="testhost:a"), agent_on(server, tmp_path, worker_id="testhost:b"):
        for task in tasks:
            wait_for_status(server, task, "completed", seconds=60)
            assert console_of(server, task, level="DEBUG") == expected(2)


def test_a_task_claimed_by_an_agent_that_died_goes_back_to_the_front(server: ServerProcess, tmp_path: Path) -> None:
    """The agent died between the pop and the start: nothing but its claim on the disk says so."""
    from agent.models import Task
    from agent.runner.rundir import Claim, Runs
    from agent.states import RunPhase

    server.call("queues.create", name="orphans")
    task = create_script(server, COUNT_TO.format(lines=2, pause=0, code=0), queue="orphans")
    queue = server.call("tasks.get_by_id", task=task)["task"]["execution"]["queue"]
    assert server.call("queues.get_next_task", queue=queue, task=task, claim="token")["entry"]["task"] == task
    Runs(tmp_path / "runs").create(
        Claim(
            task=Task(id=task).id,
            attempt=0,
            worker="testhost:0",
            queue=queue,
            queue_name="orphans",
            token="token",
            phase=RunPhase.CLAIMING,
            claimed_at_ms=0,
        )
    )
    with agent_on(server, tmp_path, "orphans"):
        wait_for_status(server, task, "completed")
        assert console_of(server, task, level="DEBUG") == expected(2)


def test_a_queue_that_is_not_there_ends_the_agent_with_its_exit_code(server: ServerProcess, tmp_path: Path) -> None:
    agent = AgentProcess(server, tmp_path, "defautl")
    assert agent.process.wait(20) == 6
    assert "Did you mean 'default'" in agent.log.read_text()


def test_refused_credentials_and_an_absent_server_have_their_exit_codes(server: ServerProcess, tmp_path: Path) -> None:
    class WrongKey:
        api, files, access_key, secret_key = server.api, server.files, server.access_key, "wrong" * 12

    refused = AgentProcess(WrongKey, tmp_path / "refused")
    absent = AgentProcess(server, tmp_path / "absent", url="http://127.0.0.1:9")
    assert refused.process.wait(20) == 5
    assert absent.process.wait(20) == 4
    assert "Traceback" not in refused.log.read_text() + absent.log.read_text()
