"""The daemon as a service: what it tells its supervisor, how it starts, drains and backs off."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from support.service import Listener

WAITING = """
import os, time
print("waiting", os.getpid(), flush=True)
while not os.path.exists({path!r}):
    time.sleep(0.02)
print("gone on")
"""


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    found = Listener(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(found.path))
    yield found
    found.close()


def waiting_task(server: Any, queue: str, go: Path) -> str:
    task = create_script(server, WAITING.format(path=str(go)), queue=queue, name="waits")
    wait_for(lambda: console_of(server, task, level="DEBUG"), what="the first line")
    return task


def registered(server: Any) -> set[str]:
    return {worker["id"] for worker in server.call("workers.get_all", last_seen=600)["workers"]}


def test_it_says_when_it_is_ready_what_it_does_and_that_it_leaves(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path / "state", queue, worker_id="service:ready") as agent:
        wait_for(lambda: listener.times_of("READY"))
        assert "service:ready" in registered(server)
        assert listener.wait_for_status("idle") == f"idle, queues {queue}"
        task = waiting_task(server, queue, tmp_path / "go")
        assert listener.wait_for_status("running") == f"running task {task} (waits), queue {queue}"
        (tmp_path / "go").touch()
        listener.wait_for_status("idle")
        assert agent.signal(signal.SIGTERM) == 0
    assert listener.times_of("STOPPING")
    assert len(listener.times_of("READY")) == 1


def test_nothing_of_the_service_manager_reaches_the_task(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with agent_on(server, tmp_path / "state", queue, worker_id="service:env"):
        task = create_script(server, "import os; print(sorted(os.environ))", queue=queue)
        wait_for_status(server, task, "completed")
    printed = " ".join(console_of(server, task, level="DEBUG"))
    assert "CLEARML_TASK_ID" in printed
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"):
        assert name not in printed


def test_the_watchdog_is_fed_by_the_loop_and_starves_when_it_hangs(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with agent_on(server, tmp_path / "state", queue, worker_id="service:watchdog") as agent:
        wait_for(lambda: len(listener.times_of("WATCHDOG")) > 5)
        agent.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        wait_for(lambda: time.monotonic() > stopped + 1)
        assert not [moment for moment in listener.times_of("WATCHDOG") if moment > stopped + 0.2]
        agent.process.send_signal(signal.SIGCONT)
        count = len(listener.times_of("WATCHDOG"))
        wait_for(lambda: len(listener.times_of("WATCHDOG")) > count + 2)


def test_a_busy_agent_and_one_whose_server_hangs_go_on_feeding_the_watchdog(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    loud = "import time\nend = time.time() + 3\nwhile time.time() < end: print('x' * 100)"
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("loud")
        with agent_on(server, tmp_path / "state", "loud", worker_id="service:busy"):
            task = create_script(server, loud, queue="loud")
            wait_for_status(server, task, "completed", seconds=60)
            server.process.send_signal(signal.SIGSTOP)
            hung = time.monotonic()
            wait_for(lambda: time.monotonic() > hung + 4)
            server.process.send_signal(signal.SIGCONT)
        moments = listener.times_of("WATCHDOG")
        assert max(later - earlier for earlier, later in itertools.pairwise(moments)) < 2


def test_by_hand_it_fails_at_once_without_its_server_and_under_a_supervisor_it_waits(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("training")
        server.stop()
        monkeypatch.delenv("NOTIFY_SOCKET")
        by_hand = AgentProcess(server, tmp_path / "state", "training", worker_id="service:away")
        assert by_hand.process.wait(30) == 4
        monkeypatch.setenv("NOTIFY_SOCKET", str(listener.path))
        supervised = by_hand.restart()
        try:
            listener.wait_for_status("waiting for the server")
            assert not listener.times_of("READY")
            server.restart()
            supervised.wait_until_ready()
            wait_for(lambda: listener.times_of("READY"))
        finally:
            assert supervised.signal(signal.SIGTERM) == 0


def test_supervisord_counts_as_a_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("training")
        server.stop()
        agent = AgentProcess(server, tmp_path / "state", "training", worker_id="service:supervisord")
        try:
            server.restart()
            agent.wait_until_ready()
        finally:
            assert agent.signal(signal.SIGTERM) == 0


def test_an_agent_that_keeps_failing_waits_longer_each_time_and_one_that_failed_once_does_not(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:failing").wait_until_ready()
    try:
        for pause in (0, 1, 2):
            agent.kill()
            began = time.monotonic()
            agent.restart()
            if pause:
                listener.wait_for_status(f"starting again in {pause} s after {pause + 1} failed starts")
            wait_for(lambda began=began: any(moment > began for moment in listener.times_of("READY")), seconds=30)
            assert listener.times_of("READY")[-1] - began > pause
        assert agent.signal(signal.SIGTERM) == 0
        began = time.monotonic()
        agent.restart()
        wait_for(lambda: any(moment > began for moment in listener.times_of("READY")))
        assert "failed starts" not in " ".join(listener.statuses[-2:])
    finally:
        assert agent.signal(signal.SIGTERM) == 0


def test_an_agent_that_backs_off_leaves_at_once_when_told(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:told").wait_until_ready()
    file = next((tmp_path / "state/workers").glob("*.failures"))
    agent.kill()
    file.write_text(json.dumps({**json.loads(file.read_text()), "count": 9}))
    agent.restart()
    listener.wait_for_status("starting again in 128 s")
    assert agent.signal(signal.SIGTERM, seconds=5) == 0


def test_an_agent_whose_queue_is_not_there_yet_waits_for_it(
    server: ServerProcess, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", "made-later", worker_id="service:early")
    try:
        listener.wait_for_status("waiting for a queue: the server has no queue 'made-later'")
        server.call("queues.create", name="made-later")
        agent.wait_until_ready()
        wait_for_status(server, create_script(server, "print('here')", queue="made-later"), "completed")
    finally:
        agent.signal(signal.SIGTERM)


def test_a_draining_agent_finishes_its_task_takes_no_other_and_leaves(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:draining").wait_until_ready()
    task = waiting_task(server, queue, tmp_path / "go")
    other = create_script(server, "print('other')", queue=queue)
    for _ in range(2):
        agent.process.send_signal(signal.SIGUSR1)
        assert listener.wait_for_status("draining") == f"draining: running task {task} (waits), queue {queue}"
    (tmp_path / "go").touch()
    assert agent.process.wait(30) == 0
    assert (status_of(server, task), status_of(server, other)) == ("completed", "queued")
    assert "service:draining" not in registered(server)
    with agent_on(server, tmp_path / "state", queue, worker_id="service:draining"):
        wait_for_status(server, other, "completed")


def test_an_idle_agent_that_drains_leaves_at_once(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:idle").wait_until_ready()
    assert agent.signal(signal.SIGUSR1, seconds=5) == 0


def test_a_drain_survives_the_death_of_its_agent(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:killed").wait_until_ready()
    task = waiting_task(server, queue, tmp_path / "go")
    other = create_script(server, "print('other')", queue=queue)
    agent.process.send_signal(signal.SIGUSR1)
    listener.wait_for_status("draining")
    agent.kill()
    agent.restart()
    listener.wait_for_status(f"draining: running task {task}")
    (tmp_path / "go").touch()
    assert agent.process.wait(30) == 0
    assert (status_of(server, task), status_of(server, other)) == ("completed", "queued")


def test_a_signal_to_every_process_ends_the_task_and_is_reported_before_the_agent_goes(
    server: ServerProcess, queue: str, listener: Listener, tmp_path: Path
) -> None:
    agent = AgentProcess(server, tmp_path / "state", queue, worker_id="service:all").wait_until_ready()
    task = waiting_task(server, queue, tmp_path / "go")
    user = int(console_of(server, task, level="DEBUG")[0].split()[1])
    executor = json.loads((agent.runs()[0] / "launch.json").read_text())["pid"]
    for pid in (agent.process.pid, executor, user):
        os.kill(pid, signal.SIGTERM)
    assert agent.process.wait(30) == 0
    assert status_of(server, task) == "stopped"
    assert not any(is_alive(pid) for pid in (executor, user))
    assert not agent.runs()
