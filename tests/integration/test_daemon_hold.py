"""A held daemon takes no task, whoever starts it, and leaves so that no supervisor takes that for a failure."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import AgentProcess, console_of, create_script, status_of, wait_for, wait_for_status
from support.apiserver import ServerProcess

WAITING = """
import os, time
print("waiting", *(name for name in ("CLEARML_AGENT_HOLD_FILE", "GPUFLEET_VERSION") if name in os.environ), flush=True)
while not os.path.exists({path!r}):
    time.sleep(0.02)
"""


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    return tmp_path / "held"


@pytest.fixture
def agent(server: ServerProcess, queue: str, hold: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent that knows where its hold would be, with a task that waits for tmp_path/go."""
    environ = {"CLEARML_AGENT_HOLD_FILE": f"{tmp_path}/not/there/../../held", "GPUFLEET_VERSION": "0.0.0"}
    found = AgentProcess(server, tmp_path / "state", queue, worker_id="hold:0", environ=environ).wait_until_ready()
    yield found
    (tmp_path / "go").touch()
    found.kill()


def waiting_task(server: ServerProcess, queue: str, tmp_path: Path) -> str:
    task = create_script(server, WAITING.format(path=str(tmp_path / "go")), queue=queue)
    assert wait_for(lambda: console_of(server, task, level="DEBUG")) == ["waiting"]
    return task


def test_a_held_agent_that_was_killed_finishes_its_task_and_takes_no_other(
    server: ServerProcess, queue: str, agent: AgentProcess, hold: Path, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    hold.touch()
    agent.kill()
    agent.restart().wait_until_ready()
    other = create_script(server, "print('other')", queue=queue)
    (tmp_path / "go").touch()
    assert agent.process.wait(30) == 0
    assert wait_for_status(server, task, "completed", "failed")["status"] == "completed"
    assert status_of(server, other) == "queued"
    hold.unlink()
    agent.restart()
    wait_for_status(server, other, "completed")


def test_a_held_agent_without_a_task_leaves_at_once_and_takes_none_each_time_it_is_started(
    server: ServerProcess, queue: str, agent: AgentProcess, hold: Path
) -> None:
    assert agent.signal(signal.SIGTERM) == 0
    hold.touch()
    task = create_script(server, "print('taken')", queue=queue)
    for _ in range(2):
        assert agent.restart().process.wait(20) == 0
    assert status_of(server, task) == "queued"


def test_systemd_is_told_that_a_held_agent_was_ready_before_it_leaves(
    agent: AgentProcess, hold: Path, tmp_path: Path
) -> None:
    assert agent.signal(signal.SIGTERM) == 0
    hold.touch()
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(20)

        def listen() -> None:
            while "STOPPING=1" not in heard:
                heard.extend(listener.recv(4096).decode().splitlines())

        hearing = threading.Thread(target=listen)
        hearing.start()
        agent.environ["NOTIFY_SOCKET"] = str(tmp_path / "n")
        assert agent.restart().process.wait(20) == 0
        hearing.join()
    assert heard.index("READY=1") < heard.index("STOPPING=1")


def test_supervisord_sees_a_held_agent_for_longer_than_it_takes_for_a_failed_start(
    agent: AgentProcess, hold: Path
) -> None:
    assert agent.signal(signal.SIGTERM) == 0
    hold.touch()
    agent.environ["SUPERVISOR_ENABLED"] = "1"
    began = time.monotonic()
    agent.restart()
    assert agent.process.wait(20) == 0
    assert time.monotonic() - began > 1.2


def test_a_held_agent_that_waits_for_supervisord_leaves_when_told(agent: AgentProcess, hold: Path) -> None:
    assert agent.signal(signal.SIGTERM) == 0
    hold.touch()
    agent.environ["SUPERVISOR_ENABLED"] = "1"
    agent.restart()
    wait_for(lambda: "held: no task" in agent.log.read_text())
    os.kill(agent.process.pid, signal.SIGTERM)
    assert agent.process.wait(20) == 0
