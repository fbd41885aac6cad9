"""The command lines of docs/operations.md for one agent, as they stand there, on a real agent with a task."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.agent import TypedDaemon, console_of, create_script, status_of, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.documents import ROOT, blocks_of

OURS = Path(__file__).relative_to(ROOT).as_posix()
LOOKING, DRAINING, GOING = (
    block.commands for block in blocks_of(ROOT / "docs/operations.md") if block.tested_by == OURS
)
WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists({path!r}):
    time.sleep(0.02)
"""


class Host:
    """A host with the agent that the page speaks of, and a shell on it."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server, self.go = server, folder / "go"
        self.state = folder / "state"
        environ = {"CLEARML_WORKER_ID": "gpu01:gpu0"}
        self.agent = TypedDaemon(server, self.state, "--queue", "training", "--cpu-only", environ=environ)
        self.agent.wait_until_ready()

    def type(self, command: str) -> subprocess.Popen[str]:
        environ: Mapping[str, str] = {
            **os.environ,
            "STATE_DIRECTORY": str(self.state),
            "HOME": str(self.state.parent),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return subprocess.Popen(
            ["bash", "-c", command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command: str) -> str:
        typed = self.type(command)
        said, _ = typed.communicate(timeout=60)
        assert typed.returncode == 0, f"{command}: {said}"
        return said

    def task(self) -> str:
        task = create_script(self.server, WAITING.format(path=str(self.go)), queue="training")
        wait_for(lambda: console_of(self.server, task, level="DEBUG"), what="the first line")
        return task


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("training")
        host = Host(server, tmp_path)
        yield host
        host.go.touch()
        if host.agent.process.poll() is None:
            host.agent.end()


def test_looking_pausing_resuming_and_reloading(host: Host) -> None:
    status, pause, status_json, resume, reload = LOOKING
    assert host.run(status).startswith(f"gpu01:gpu0 (pid {host.agent.process.pid}, ")
    task = host.task()
    assert host.run(pause) == f"Paused gpu01:gpu0; {task} runs on\n"
    (report,) = json.loads(host.run(status_json))["agents"]
    assert (report["standing"], report["why"]) == ("paused", "new power supply")
    assert host.run(resume) == "Resumed gpu01:gpu0\n"
    assert host.run(reload) == "Reloaded gpu01:gpu0\n"
    host.go.touch()
    wait_for_status(host.server, task, "completed")


def test_every_key_of_the_report_is_described_and_the_other_way_round(host: Host) -> None:
    host.task()
    (report,) = json.loads(host.run(LOOKING[2]))["agents"]
    page = (ROOT / "docs/operations.md").read_text()
    table = page[page.index("| `answers` |") : page.index("## Working hours")]
    inner = [report["queues"][0], report["server"], report["tasks"][0], report["hours"], report["gpus"]]
    inner += [report["configuration"], {"label": "", "uuid": "", "at": "", "message": "", "exit_code": 0}]
    for key in {key for keys in (report, *inner) for key in keys}:
        assert f"`{key}`" in table, key


def test_draining_waits_for_the_task(host: Host) -> None:
    (drain,) = DRAINING
    task = host.task()
    typed = host.type(drain)
    assert typed.stdout
    assert typed.stdout.readline().startswith("Draining gpu01:gpu0")
    host.go.touch()
    said, _ = typed.communicate(timeout=60)
    assert (typed.returncode, said) == (0, f"Drained gpu01:gpu0 (pid {host.agent.process.pid})\n")
    assert status_of(host.server, task) == "completed"


def test_leaving_keeps_the_task_and_stopping_ends_it(host: Host) -> None:
    leave, stop = GOING
    task = host.task()
    assert f"{task} runs on" in host.run(leave)
    assert status_of(host.server, task) == "in_progress"
    assert host.agent.process.wait(10) == 0
    host.agent.restart()
    wait_for(lambda: "adopted" in host.agent.log.read_text())
    assert host.run(stop).startswith("Stopped gpu01:gpu0")
    assert host.agent.process.wait(10) == 0
    assert status_of(host.server, task) == "stopped"


@pytest.mark.parametrize("number", ["SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT"])
def test_the_signals_that_the_page_names_do_what_it_says(host: Host, number: str) -> None:
    assert f"or {number} |" in (ROOT / "docs/operations.md").read_text()
    task = host.task()
    host.agent.process.send_signal(signal.Signals[number])
    if number == "SIGHUP":
        wait_for(lambda: host.agent.log.read_text().count("listens to") == 2)
    if number in ("SIGHUP", "SIGUSR1"):
        host.go.touch()
    wanted = {"SIGTERM": "in_progress", "SIGINT": "stopped"}.get(number, "completed")
    wait_for_status(host.server, task, wanted)
    if number != "SIGHUP":
        assert host.agent.process.wait(30) == 0
    assert status_of(host.server, task) == wanted
