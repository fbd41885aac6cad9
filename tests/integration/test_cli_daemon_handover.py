"""`clearml-agent daemon` as a real process: it becomes the worker, in front or in the background, until told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, environment, run_cli, server_variables, stub_server
from support.http_stub import http_stub


class Host:
    """A home, a server, and the agents that were started on it."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.state = home / ".clearml" / "agent"
        self.variables = {**server_variables(url), "CLEARML_WORKER_NAME": "testhost"}

    def run(self, *arguments: str) -> Result:
        return run_cli(self.home, *arguments, **self.variables)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted((self.state / "workers").glob("*.lock"))]

    def log(self) -> str:
        return "".join(file.read_text() for file in (self.state / "logs").glob("*.log"))

    def end(self) -> None:
        """Stop what a failed test left; agents in the background are nobody's children."""
        for record in self.records():
            with suppress(ProcessLookupError):
                os.kill(record["pid"], signal.SIGKILL)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with http_stub(stub_server()) as url:
        host = Host(tmp_path, url)
        yield host
        host.end()


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)
    return value


def test_daemon_in_the_background_is_ready_when_the_command_returns_and_ends_on_request(host: Host) -> None:
    started = host.run("daemon", "--queue", "default", "--detached")
    assert started.returncode == 0, started.stderr + host.log()
    (record,) = host.records()
    assert (record["worker_id"], record["ready"]) == ("testhost:0", True)
    arguments = Path(f"/proc/{record['pid']}/cmdline").read_bytes().decode().split("\0")
    assert arguments[1:5] == ["-P", "-OO", "-m", "agent.worker"]
    assert os.getsid(record["pid"]) != os.getsid(0)
    assert os.getsid(record["pid"]) != record["pid"], "a session leader could get a terminal"
    assert "the-secret" not in host.log()

    status = host.run("daemon", "--status")
    assert status.returncode == 0
    assert f"Worker testhost:0: running (pid {record['pid']}); unknown to the server" in status.stdout

    stopped = host.run("daemon", "--stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"Stopped testhost:0 (pid {record['pid']})\n")
    assert host.records() == []
    assert "is running" in host.run("daemon", "--stop").stderr


def test_everything_it_writes_is_its_users_only_and_the_set_up_file_is_gone(host: Host) -> None:
    assert host.run("daemon", "-d").returncode == 0
    everything = list(host.state.rglob("*"))
    assert everything
    assert [path for path in everything if path.stat().st_mode & 0o077] == []
    assert [path.name for path in everything if path.name.startswith("setup.")] == []
    assert host.run("daemon", "--stop", "testhost:0").returncode == 0


def test_second_agent_takes_the_next_slot_and_both_can_be_stopped_by_id(host: Host) -> None:
    for _ in range(2):
        assert host.run("daemon", "--detached", "--cpu-only").returncode == 0
    assert [record["worker_id"] for record in host.records()] == ["testhost:cpu:0", "testhost:cpu:1"]
    stopped = host.run("daemon", "--stop", "testhost:cpu:0", "testhost:cpu:1", "testhost:cpu:7")
    assert stopped.returncode == 6
    assert "no agent testhost:cpu:7 is running" in stopped.stderr
    assert host.records() == []


def test_agent_of_the_same_gpus_is_refused_with_exit_code_8(host: Host) -> None:
    assert host.run("daemon", "--detached", "--gpus", "0").returncode == 0
    again = host.run("daemon", "--detached", "--gpus", "0")
    assert again.returncode == 8
    assert "already running" in again.stderr
    assert host.run("daemon", "--stop", "--gpus", "0").returncode == 0


def test_failure_in_the_background_is_told_in_front_with_its_exit_code(host: Host) -> None:
    failed = host.run("daemon", "--detached", "--queue", "defalt")
    assert failed.returncode == 6
    assert failed.stderr.startswith("clearml_agent: ERROR: ")
    assert "'defalt'" in failed.stderr
    assert "'default'" in failed.stderr
    assert "Its log is " in failed.stderr


def test_nothing_to_stop_is_exit_code_1(host: Host) -> None:
    stopped = host.run("daemon", "--stop")
    assert stopped.returncode == 1
    assert "is running on this host" in stopped.stderr


def test_daemon_in_front_is_the_same_process_and_ends_on_ctrl_c(host: Host) -> None:
    command = [sys.executable, "-m", "agent.cli", "daemon", "--foreground", "--json-logs"]
    process = subprocess.Popen(
        command, env=environment(host.home, **host.variables), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        (record,) = until(lambda: [record for record in host.records() if record["ready"]])
        assert record["pid"] == process.pid
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    entries = [json.loads(line) for line in said.splitlines()]
    assert "ready" in [entry.get("action") for entry in entries]


def test_set_up_file_that_a_dead_process_left_is_removed(host: Host) -> None:
    workers = host.state / "workers"
    workers.mkdir(parents=True, mode=0o700)
    (workers / f"setup.{2**22 + 1}.json").write_text("{}")
    (workers / f"setup.{os.getpid()}.json").write_text("{}")
    assert host.run("daemon", "-d").returncode == 0
    assert [file.name for file in workers.glob("setup.*")] == [f"setup.{os.getpid()}.json"]
    assert host.run("daemon", "--stop").returncode == 0


def test_files_and_environment_of_the_configuration_reach_the_daemon(host: Host) -> None:
    (host.home / "clearml.conf").write_text(
        'environment { GREETING: hello }\nfiles { note { path: "~/note", contents: "text" } }\n'
    )
    assert host.run("daemon", "-d").returncode == 0
    (record,) = host.records()
    assert b"GREETING=hello" in Path(f"/proc/{record['pid']}/environ").read_bytes().split(b"\0")
    assert (host.home / "note").read_text() == "text"
    assert host.run("daemon", "--stop").returncode == 0
