"""What goes wrong around a running daemon: aborts at awkward moments, a server that forgets, things that disappear."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from support.cli import run_cli
from support.http_stub import http_stub

SLEEPER = "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(600)\n"
HELLO = "print('hello', flush=True)\n"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server to kill."""
    with ServerProcess(tmp_path / "server" / "data") as running:
        yield running


@contextmanager
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def _pid(server: ServerProcess, task: str) -> int:
    lines = wait_for(lambda: [x for x in console_of(server, task) if x.startswith("pid ")], what="the first line")
    return int(lines[-1].split()[1])


# --- aborts


def test_an_abort_during_set_up_ends_it(server: ServerProcess, tmp_path: Path) -> None:
    with silent_port() as port, agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, "", repository=f"http://127.0.0.1:{port}/code.git", branch="main")
        wait_for(lambda: list(tmp_path.glob("runs/*/launch.json")), what="the executor")
        wait_for_status(server, task, "in_progress")
        server.call("tasks.stop", task=task)
        asked = time.monotonic()
        wait_for_status(server, task, "stopped")
        wait_for(lambda: not agent.runs(), seconds=10, what="the run is over")
        assert time.monotonic() - asked < 4.0


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_a_stop_that_lands_before_the_users_code_starts_is_not_lost(
    server: ServerProcess, tmp_path: Path, delay: float
) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, SLEEPER)
        wait_for_status(server, task, "in_progress")
        time.sleep(delay)  # the moment is what this is about
        server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped", seconds=10)
        wait_for(lambda: not agent.runs(), seconds=10, what="the run is over")
        assert status_of(server, task) == "stopped"


def test_a_task_that_is_reset_while_it_runs_is_ended_and_left_a_draft(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, SLEEPER)
        pid = _pid(server, task)
        server.call("tasks.reset", task=task)
        wait_for(lambda: not agent.runs(), seconds=15, what="the run is over")
        assert not is_alive(pid)
        assert status_of(server, task) == "created"


def test_a_task_that_is_deleted_while_it_runs_is_ended_and_the_next_one_runs(
    server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, SLEEPER)
        pid = _pid(server, task)
        server.call("tasks.delete", task=task, force=True)
        wait_for(lambda: not agent.runs(), seconds=15, what="the run is over")
        assert not is_alive(pid)
        wait_for_status(server, create_script(server, HELLO), "completed")


def test_a_task_queued_again_without_a_reset_keeps_the_lines_of_both_runs(
    server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, SLEEPER)
        first = _pid(server, task)
        server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped")
        wait_for(lambda: not agent.runs(), what="the run is over")
        server.call("tasks.enqueue", task=task, queue_name="default")
        wait_for_status(server, task, "in_progress")

        def pids() -> list[str]:
            return [line for line in console_of(server, task, level="DEBUG") if line.startswith("pid ")]

        wait_for(lambda: len(pids()) == 2, seconds=10, what="the second run's line beside the first one's")
        assert pids()[0] == f"pid {first}"
        pulled = [line for line in console_of(server, task, level="INFO") if " pulled from default by " in line]
        assert len(pulled) == 2
        server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped")


# --- the server


def test_the_end_of_a_task_during_an_outage_is_reported_after_it(own_server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(own_server, tmp_path / "state") as agent:
        task = create_script(own_server, "import time\nprint('on', flush=True)\ntime.sleep(1.5)\nprint('off')\n")
        wait_for(lambda: "on" in console_of(own_server, task), what="the first line")
        own_server.kill()
        wait_for((agent.runs()[0] / "outcome.json").exists, what="the end of the task")
        own_server.restart()
        done = wait_for_status(own_server, task, "completed", "failed", "stopped", seconds=60)
        assert done["status"] == "completed"
        assert console_of(own_server, task, level="DEBUG") == ["on", "off"]


def test_a_server_that_signs_with_a_new_secret_is_logged_into_again(own_server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(own_server, tmp_path / "state"):
        task = create_script(own_server, "import time\nprint('on', flush=True)\ntime.sleep(3)\nprint('off')\n")
        wait_for(lambda: "on" in console_of(own_server, task), what="the first line")
        own_server.stop()
        secrets = [file for file in own_server.data.rglob("*secret*") if file.is_file()]
        assert secrets
        for file in secrets:
            file.unlink()
        own_server.restart()
        wait_for_status(own_server, task, "completed", seconds=60)
        assert console_of(own_server, task, level="DEBUG") == ["on", "off"]
        wait_for_status(own_server, create_script(own_server, HELLO), "completed", seconds=60)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_an_idle_agent_leaves_at_once_while_the_server_is_away(
    own_server: ServerProcess, tmp_path: Path, how: signal.Signals
) -> None:
    with agent_on(own_server, tmp_path / "state") as agent:
        own_server.kill()
        wait_for(lambda: "waiting for the server" in agent.log.read_text(), what="the outage is noticed")
        began = time.monotonic()
        assert agent.signal(how) == 0
        assert time.monotonic() - began < 4.0
        own_server.restart()


def test_an_agent_that_leaves_during_an_outage_leaves_its_task_to_the_next(
    own_server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(own_server, tmp_path / "state") as agent:
        task = create_script(own_server, "import time\nfor n in range(60): print(n, flush=True); time.sleep(0.1)\n")
        wait_for(lambda: "3" in console_of(own_server, task), what="the first lines")
        own_server.kill()
        assert agent.signal(signal.SIGTERM) == 0
        own_server.restart()
        agent.restart().wait_until_ready()
        wait_for_status(own_server, task, "completed", seconds=60)
        assert console_of(own_server, task, level="DEBUG") == [str(n) for n in range(60)]


def test_an_agent_that_starts_against_a_server_that_hangs_can_be_stopped(tmp_path: Path) -> None:
    asked: list[str] = []

    def hang(path: str, _headers: dict[str, str], _body: bytes) -> None:
        asked.append(path)
        time.sleep(8)  # longer than this test takes

    class Server:
        files, access_key, secret_key = "http://127.0.0.1:9", "KEY", "SECRET" * 6

    with http_stub(hang) as url:
        agent = AgentProcess(Server, tmp_path, url=url)
        wait_for(lambda: asked, what="the agent logs in")
        began = time.monotonic()
        assert agent.signal(signal.SIGTERM) == 0
        assert time.monotonic() - began < 3.0


# --- queues and workers


def test_a_queue_that_is_deleted_does_not_starve_the_others(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path, "doomed", "living", create_queue=True):
        queues = {q["name"]: q["id"] for q in server.call("queues.get_all")["queues"]}
        server.call("queues.delete", queue=queues["doomed"], force=True)
        wait_for_status(server, create_script(server, HELLO, queue="living"), "completed", seconds=10)
        wait_for_status(server, create_script(server, HELLO, queue="living"), "completed", seconds=35)


def test_readings_of_the_machine_are_on_the_list_of_workers(server: ServerProcess, tmp_path: Path) -> None:
    def reading() -> dict[str, object]:
        workers = server.call("workers.get_all", last_seen=600)["workers"]
        found = [worker for worker in workers if worker["id"] == "testhost:reader"]
        return dict(found[0].get("machine_stats") or {}) if found else {}

    with agent_on(server, tmp_path, worker_id="testhost:reader", status_report_interval_seconds=0.5):
        stats = wait_for(reading, seconds=10, what="machine_stats")
        assert {"cpu_usage", "memory_used", "memory_free", "disk_free_home"} <= set(stats)
        task = create_script(server, SLEEPER)
        wait_for_status(server, task, "in_progress")

        def running() -> str:
            workers = server.call("workers.get_all", last_seen=600)["workers"]
            return "".join(w.get("task", {}).get("id", "") for w in workers if w["id"] == "testhost:reader")

        wait_for(lambda: running() == task, what="the worker says what it runs")
        server.call("tasks.stop", task=task)
        wait_for(lambda: not running(), what="the worker says that it is free")


def test_a_second_agent_of_the_same_id_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        second = AgentProcess(server, tmp_path)
        assert second.process.wait(20) == 8
        assert "is already running on this host" in second.log.read_text()


# --- this host


def test_a_run_directory_that_is_removed_under_a_task_does_not_end_the_agent(
    server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = create_script(server, "import time\nprint('on', flush=True)\ntime.sleep(2)\n")
        wait_for(lambda: "on" in console_of(server, task), what="the first line")
        shutil.rmtree(agent.runs()[0])
        wait_for_status(server, create_script(server, HELLO), "completed", seconds=30)
        assert agent.process.poll() is None
        assert status_of(server, task) == "failed"


def test_megabytes_without_a_line_end_arrive_whole(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = create_script(server, "import sys\nsys.stdout.write('x' * 3_000_000)\nprint()\nprint('after it')\n")
        wait_for_status(server, task, "completed")
        lines = console_of(server, task, level="DEBUG")
        assert lines[-1] == "after it"
        assert "".join(lines[:-1]) == "x" * 3_000_000


# --- in the foreground


def test_execute_says_why_a_task_cannot_be_started(server: ServerProcess, tmp_path: Path) -> None:
    task = create_script(server, HELLO, queue=None)
    for call in ("tasks.started", "tasks.completed", "tasks.publish"):
        server.call(call, task=task, force=True)
    ended = run_cli(tmp_path, "execute", "--id", task, CLEARML_CONFIG_FILE=str(server.conf_path))
    assert ended.returncode == 1
    assert "could not be started: the server says it is published" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.glob(".clearml/agent/runs/*")) == []
