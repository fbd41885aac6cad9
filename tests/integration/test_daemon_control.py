"""Operating a real agent through its control socket: who may, what each operation does and when, what survives what."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.agent import (
    AgentProcess,
    agent_on,
    console_of,
    create_script,
    status_of,
    wait_for,
    wait_for_status,
)
from support.apiserver import ServerProcess
from support.control import operate, reports, send, socket_in, start_operating
from support.watcher import Watcher

from agent.files import read_json
from agent.steps import Step

WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists({path!r}):
    time.sleep(0.02)
print("gone on")
"""
STATUS = b'{"version": 1, "do": "status"}\n'
NOBODY = 65534


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def agent(server: ServerProcess, queue: str, state: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    """An idle agent; tasks of `waiting_task` end at the latest with the test."""
    with agent_on(server, state, queue, worker_id="host:0") as found:
        yield found
        (tmp_path / "go").touch()


def waiting_task(server: Any, queue: str, tmp_path: Path) -> str:
    """A task that runs until tmp_path/go is there."""
    task = create_script(server, WAITING.format(path=str(tmp_path / "go")), queue=queue, name="waits")
    wait_for(lambda: console_of(server, task, level="DEBUG"), what="the first line")
    return task


def tags_of(server: Any, worker: str) -> list[str]:
    known = server.call("workers.get_all", last_seen=600)["workers"]
    return next((found["tags"] for found in known if found["id"] == worker), [])


def ready_again(agent: AgentProcess) -> None:
    """Start the next agent; what the last one said of itself when it was killed does not count."""
    agent.restart()
    wait_for(lambda: (read_json(agent.record) or {}).get("pid") == agent.process.pid, what="a new record")
    agent.wait_until_ready()


# --- pause and resume


def test_a_paused_agent_finishes_its_task_takes_no_other_and_goes_on_when_resumed(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    paused = operate(state, "pause", "host:0", "--reason", "new  power\nsupply")
    assert (paused.returncode, paused.stdout) == (0, f"Paused host:0; {task} runs on\n")
    wait_for(lambda: "paused: new power supply" in tags_of(server, "host:0"))
    report = reports(state)["host:0"]
    assert (report["standing"], report["why"]) == ("paused", "new power supply")
    (tmp_path / "go").touch()
    wait_for_status(server, task, "completed")
    other = create_script(server, "print('other')", queue=queue)
    wait_for(lambda: not reports(state)["host:0"]["tasks"])
    assert status_of(server, other) == "queued"
    assert operate(state, "resume", "host:0").stdout == "Resumed host:0\n"
    wait_for_status(server, other, "completed")
    assert not [tag for tag in tags_of(server, "host:0") if tag.startswith("paused")]
    assert operate(state, "resume", "host:0").stdout == "host:0 was not paused\n"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_pause_survives_its_agent(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, end: signal.Signals
) -> None:
    assert operate(state, "pause", "host:0", "--reason", "disks").returncode == 0
    agent.process.send_signal(end)  # at once: what the command has promised is on the disk
    agent.process.wait(20)
    task = create_script(server, "print('ran')", queue=queue)
    ready_again(agent)
    wait_for(lambda: "paused: disks" in tags_of(server, "host:0"))
    assert status_of(server, task) == "queued"
    assert operate(state, "resume", "host:0").returncode == 0
    agent.kill()
    ready_again(agent)
    wait_for_status(server, task, "completed")


def test_no_task_starts_after_pause_has_returned(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess
) -> None:
    """Tasks come in all the while; what is not in progress when `pause` returns stays queued."""
    tasks = [create_script(server, "pass", queue=queue) for _ in range(6)]
    wait_for(lambda: status_of(server, tasks[0]) != "queued")
    assert operate(state, "pause", "host:0").returncode == 0
    queued = [task for task in tasks if status_of(server, task) == "queued"]
    wait_for(lambda: not reports(state)["host:0"]["tasks"])
    assert queued
    assert [task for task in queued if status_of(server, task) != "queued"] == []


def test_resume_does_not_take_a_drain_back_and_says_so(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    drained = operate(state, "daemon", "--stop", "host:0", "--drain", "--timeout", "0")
    assert (drained.returncode, drained.stdout.split(";")[1]) == (0, f" waits for {task}\n")
    resumed = operate(state, "resume", "host:0")
    assert (resumed.returncode, resumed.stdout) == (0, "host:0 is draining: it takes no task, and leaves\n")
    assert reports(state)["host:0"]["standing"] == "draining"
    (tmp_path / "go").touch()
    assert agent.process.wait(30) == 0
    assert status_of(server, task) == "completed"


# --- three ways to go


def test_a_drain_is_waited_for_and_interrupting_the_wait_does_not_take_it_back(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    waiting = start_operating(state, "daemon", "--stop", "host:0", "--drain")
    assert waiting.stdout
    assert waiting.stdout.readline() == f"Draining host:0 (pid {agent.process.pid}); waits for {task}\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 254
    assert "the agents go on draining" in said
    late = operate(state, "daemon", "--stop", "host:0", "--drain", "--timeout", "1")
    assert late.returncode == 1
    assert "still has a task after 1 s" in late.stderr
    other = create_script(server, "print('other')", queue=queue)
    again = start_operating(state, "daemon", "--stop", "host:0", "--drain")
    assert again.stdout
    assert again.stdout.readline().startswith("Draining host:0")
    (tmp_path / "go").touch()
    told, _ = again.communicate(timeout=30)
    assert (again.returncode, told.splitlines()[-1]) == (0, f"Drained host:0 (pid {agent.process.pid})")
    assert agent.process.wait(5) == 0
    assert (status_of(server, task), status_of(server, other)) == ("completed", "queued")


def test_an_agent_that_is_let_go_leaves_its_task_to_the_next_one(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    left = operate(state, "daemon", "--stop", "host:0", "--leave")
    assert left.returncode == 0
    assert left.stdout == f"Let go host:0 (pid {agent.process.pid}); {task} runs on for the next agent\n"
    assert agent.process.wait(5) == 0
    assert status_of(server, task) == "in_progress"
    agent.restart().wait_until_ready()
    (tmp_path / "go").touch()
    wait_for_status(server, task, "completed")
    wait_for(lambda: "gone on" in console_of(server, task, level="DEBUG"))


def test_a_plain_stop_ends_the_task(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    assert operate(state, "daemon", "--stop", "host:0").returncode == 0
    assert agent.process.wait(5) == 0
    assert status_of(server, task) == "stopped"


@pytest.mark.parametrize(
    ("words", "status"), [((), "stopped"), (("--drain", "--timeout", "0"), "completed"), (("--leave",), "in_progress")]
)
def test_an_agent_without_a_socket_is_told_by_signals(
    server: ServerProcess, agent: AgentProcess, tmp_path: Path, words: tuple[str, ...], status: str
) -> None:
    task = waiting_task(server, agent.setup.queues[0], tmp_path)
    socket_in(agent.state, "host:0").unlink()
    assert operate(agent.state, "daemon", "--stop", "host:0", *words).returncode == 0
    if status == "completed":
        (tmp_path / "go").touch()
    assert agent.process.wait(30) == 0
    assert status_of(server, task) == status


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("daemon", "--stop", "host:0"), "stopped"),
        (("daemon", "--stop", "host:0", "--drain", "--timeout", "0"), "completed"),
        (("daemon", "--stop", "host:0", "--leave"), "in_progress"),
        (("pause", "host:0"), "completed"),
        (("status", "host:0"), "completed"),
    ],
)
def test_every_operation_works_while_a_task_is_being_set_up(
    server: ServerProcess, queue: str, tmp_path: Path, words: tuple[str, ...], status: str
) -> None:
    state = tmp_path / "state"
    with (
        Watcher() as watcher,
        agent_on(server, state, queue, worker_id="host:0", environ=watcher.environ) as agent,
    ):
        held = watcher.hold(Step.WORKSPACE_OPEN)
        task = create_script(server, "print('ran')", queue=queue)
        held.wait()
        (found,) = reports(state)["host:0"]["tasks"]
        assert (found["id"], found["phase"]) == (task, "started")
        assert found["executor_pid"]
        command = start_operating(state, *words)
        if "--leave" not in words:
            if status == "stopped":
                wait_for(lambda: list(state.glob("runs/*/stop.json")))
            else:
                assert command.wait(30) == 0
            held.release()
        assert command.communicate(timeout=30)[1] == ""
        assert command.returncode == 0
        if words[0] == "daemon":
            assert agent.process.wait(30) == 0
        if status == "in_progress":
            assert status_of(server, task) == "in_progress"
            held.release()
            agent.restart().wait_until_ready()
            status = "completed"
        wait_for_status(server, task, status)


# --- status


def test_status_tells_of_the_task_the_queues_and_the_server_and_no_secret(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess, tmp_path: Path
) -> None:
    task = waiting_task(server, queue, tmp_path)
    done = operate(state, "status", "--json")
    report = json.loads(done.stdout)["agents"][0]
    assert (report["worker"], report["pid"], report["ready"]) == ("host:0", agent.process.pid, True)
    assert [entry["name"] for entry in report["queues"]] == [queue]
    assert (report["server"]["url"], report["server"]["reachable"]) == (server.api, True)
    (found,) = report["tasks"]
    assert (found["id"], found["name"], found["queue"], found["phase"]) == (task, "waits", queue, "started")
    executor = json.loads((agent.runs()[0] / "launch.json").read_text())["pid"]
    assert found["executor_pid"] == executor
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["since"])
    assert server.secret_key not in done.stdout
    shown = operate(state, "status").stdout
    assert f"task: {task} (waits) from {queue}, started since" in shown
    assert f"{server.api} answers" in shown


def test_the_socket_answers_while_the_server_is_away_and_says_so(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server was ever reached, and after an outage in the middle of a task."""
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("training")
        server.stop()
        agent = AgentProcess(server, state, "training", worker_id="host:0")
        try:
            away = wait_for(lambda: (found := reports(state)) and _is_away(found["host:0"]) and found["host:0"])
            assert (away["ready"], away["queues"][0]["name"]) == (False, "training")
            assert operate(state, "pause", "host:0", "--reason", "early").returncode == 0
            server.restart()
            agent.wait_until_ready()
            wait_for(lambda: "paused: early" in tags_of(server, "host:0"))
            assert operate(state, "resume", "host:0").returncode == 0
            task = waiting_task(server, "training", tmp_path)
            server.stop()
            away = wait_for(lambda: _is_away(found := reports(state)["host:0"]) and found)
            assert "connection refused" in away["server"]["error"].lower()
            assert away["tasks"][0]["id"] == task
            (tmp_path / "go").touch()
            wait_for(lambda: reports(state)["host:0"]["tasks"][0]["unshipped_bytes"] > len("gone on"))
            assert "does not answer" in operate(state, "status").stdout
            assert operate(state, "daemon", "--stop", "host:0", "--leave").returncode == 0
            assert agent.process.wait(20) == 0
        finally:
            agent.kill()


def _is_away(report: dict[str, Any]) -> bool:
    return bool(report["answers"]) and report["server"]["reachable"] is False


def test_a_drain_of_an_agent_that_waits_for_its_server_ends_it(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    with ServerProcess(tmp_path / "server") as server:
        server.stop()
        agent = AgentProcess(server, state, "training", worker_id="host:0")
        wait_for(lambda: reports(state))
        assert operate(state, "daemon", "--stop", "host:0", "--drain").returncode == 0
        assert agent.process.wait(5) == 0


# --- several agents


def test_with_two_agents_the_one_that_is_named_is_meant(server: ServerProcess, queue: str, state: Path) -> None:
    with agent_on(server, state, queue, worker_id="host:a"), agent_on(server, state, queue, worker_id="host:b"):
        assert reports(state).keys() == {"host:a", "host:b"}
        assert reports(state, "host:b").keys() == {"host:b"}
        assert operate(state, "pause", "host:a").stdout == "Paused host:a\n"
        standings = {name: report["standing"] for name, report in reports(state).items()}
        assert standings == {"host:a": "paused", "host:b": "open"}

        unknown = operate(state, "pause", "host:b", "host:x")
        assert (unknown.returncode, unknown.stdout) == (6, "Paused host:b\n")
        assert "no agent host:x is running on this host\n  Running: host:a, host:b." in unknown.stderr
        for words in (("status", "host:x"), ("resume", "host:x"), ("daemon", "--stop", "host:x", "--drain")):
            done = operate(state, *words)
            assert (done.returncode, "Running: host:a, host:b." in done.stderr) == (6, True)

        unclear = operate(state, "resume", CLEARML_WORKER_NAME="host")
        assert unclear.returncode == 2
        assert "host:a, host:b" in unclear.stderr
        assert operate(state, "resume", CLEARML_WORKER_ID="host:b").stdout == "Resumed host:b\n"
        assert operate(state, "resume", "--all").stdout == "Resumed host:a\nhost:b was not paused\n"


def test_without_agents_there_is_nothing_to_show_and_nobody_to_pause(state: Path) -> None:
    state.mkdir()
    assert reports(state) == {}
    assert operate(state, "status").stdout == "No agent of this host is running.\n"
    assert operate(state, "pause").returncode == 6
    assert list(state.iterdir()) == [], "looking leaves nothing"


# --- the socket


def test_the_socket_is_its_users_alone_and_goes_with_the_agent(state: Path, agent: AgentProcess) -> None:
    path = socket_in(state, "host:0")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert agent.signal(signal.SIGTERM) == 0
    assert [name for name in os.listdir(path.parent) if name.endswith(".sock")] == []


def test_what_a_killed_agent_left_is_replaced(state: Path, agent: AgentProcess) -> None:
    agent.kill()
    with pytest.raises(ConnectionRefusedError):
        send(socket_in(state, "host:0"), STATUS)
    ready_again(agent)
    assert reports(state)["host:0"]["pid"] == agent.process.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_refused_even_where_the_file_lets_him(server: ServerProcess, queue: str) -> None:
    with tempfile.TemporaryDirectory() as name, agent_on(server, Path(name, "state"), queue, worker_id="host:0"):
        path = socket_in(Path(name, "state"), "host:0")
        assert _answer_to_nobody(path) == "PermissionError"
        for place in (Path(name), Path(name, "state"), path.parent):
            place.chmod(0o755)
        assert _answer_to_nobody(path) == "PermissionError"
        path.chmod(0o666)
        assert json.loads(_answer_to_nobody(path))["error"] == "this agent belongs to another user"
        assert reports(Path(name, "state"))["host:0"]["ready"]


def _answer_to_nobody(path: Path) -> str:
    program = (
        "import socket, sys\nc = socket.socket(socket.AF_UNIX)\n"
        "try:\n    c.connect(sys.argv[1])\nexcept OSError as error:\n    sys.exit(print(type(error).__name__))\n"
        "try:\n    c.sendall(sys.argv[2].encode())\nexcept BrokenPipeError:\n    pass\n"  # it was refused before that
        "print(c.makefile().readline())"
    )
    command = ["/usr/bin/python3", "-c", program, str(path), STATUS.decode()]
    done = subprocess.run(command, user=NOBODY, group=NOBODY, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"hello\n", "one line of JSON"),
        (b"\xff\xfe\x00\n", "one line of JSON"),
        (b"[" * 100_000 + b"\n", "one line of JSON"),
        (b"[1]\n", 'an object with "do"'),
        (b'{"version": 1, "do": 7}\n', 'an object with "do"'),
        (b'{"version": 2, "do": "status"}\n', "speaks version 1"),
        (b'{"version": 1, "do": "explode"}\n', "does not know 'explode'"),
        (b'{"version": 1, "do": "reload", "config": 7}\n', '"config" is an object'),
        (b"x" * (2 << 20) + b"\n", "at most"),
    ],
    ids=["text", "bytes", "deep", "list", "no-verb", "version", "unknown", "config", "oversized"],
)
def test_nonsense_gets_an_error_and_the_agent_goes_on(
    state: Path, agent: AgentProcess, request_line: bytes, error: str
) -> None:
    answer = send(socket_in(state, "host:0"), request_line)
    if answer is None:  # it was dropped while it was still sending
        assert len(request_line) > 1 << 20
    else:
        assert (answer["version"], answer["ok"]) == (1, False)
        assert error in answer["error"]
    assert reports(state)["host:0"]["ready"]
    assert "Traceback" not in agent.log.read_text()


def test_clients_that_say_nothing_are_dropped_and_keep_nobody_else_out(
    server: ServerProcess, queue: str, state: Path, agent: AgentProcess
) -> None:
    path = socket_in(state, "host:0")
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(40)]
    try:
        for client in silent:
            client.settimeout(20)
            client.connect(str(path))
        began = time.monotonic()
        wait_for(lambda: (answer := _try(path)) and answer["ok"], what="an answer among the silent")
        said = silent[0].recv(4096)
        assert b"no request within 5 s" in said
        assert time.monotonic() - began < 20
        wait_for_status(server, create_script(server, "pass", queue=queue), "completed")
    finally:
        for client in silent:
            client.close()


def _try(path: Path) -> dict[str, Any] | None:
    try:
        return send(path, STATUS, ends=False)
    except OSError:
        return None


def test_many_clients_at_once_are_all_answered(state: Path, agent: AgentProcess) -> None:
    path = socket_in(state, "host:0")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(path, STATUS, ends=False), range(64)))
    assert all(answer and answer["agent"]["worker"] == "host:0" for answer in answers)


def test_a_client_that_does_not_read_its_answer_holds_nobody_up(state: Path, agent: AgentProcess) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(socket_in(state, "host:0")))
        client.sendall(STATUS)
        assert reports(state)["host:0"]["ready"]
        assert agent.signal(signal.SIGTERM, seconds=10) == 0


def test_a_long_state_directory_and_a_long_worker_id_are_no_problem(
    server: ServerProcess, queue: str, tmp_path: Path
) -> None:
    state = tmp_path / ("long" * 30) / ("state" * 20)
    state.parent.mkdir()
    worker = "host:" + "ü" * 35
    assert len(str(socket_in(state, worker))) > 300
    with agent_on(server, state, queue, worker_id=worker):
        assert reports(state)[worker]["ready"]
        assert operate(state, "pause", worker).returncode == 0


def test_an_agent_that_cannot_have_a_socket_works_without_one(server: ServerProcess, queue: str, state: Path) -> None:
    socket_in(state, "host:0").mkdir(parents=True)
    with agent_on(server, state, queue, worker_id="host:0") as agent:
        wait_for_status(server, create_script(server, "pass", queue=queue), "completed")
        assert "no control socket" in agent.log.read_text()
        (silent,) = reports(state).values()
        assert (silent["answers"], silent["pid"]) == (False, agent.process.pid)


def test_commands_about_stopping_that_contradict_each_other_are_refused(state: Path) -> None:
    for words, said in {
        ("--drain",): "say how to --stop",
        ("--stop", "--drain", "--leave"): "exclude each other",
        ("--stop", "--timeout", "3"): "is for --stop --drain",
    }.items():
        done = operate(state, "daemon", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
