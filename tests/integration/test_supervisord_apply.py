"""`supervisor-gen apply --format supervisord` on a running supervisord, with real agents, tasks and a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.agent import console_of, create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess

BIN = Path(sys.executable).parent
GPUS = {"version": 1, "gpus": []}
COUNTING = """
import time
for number in range(60):
    print("line", number, flush=True)
    time.sleep(0.05)
"""
WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists(PATH):
    time.sleep(0.05)
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A supervisord, what it supervises, and the server that the agents report to."""

    root: Path
    server: ServerProcess

    def declare(self, *entries: str) -> None:
        defaults = f'defaults {{ create_queue: true, config_file: "{self.server.conf_path}" }}\n'
        (self.root / "topology.conf").write_text(f"{defaults}agents: [\n{chr(10).join(entries)}\n]\n")

    def command(self, *words: str) -> list[str]:
        return [
            *(str(BIN / "supervisor-gen"), *words, "--format", "supervisord", "--root", str(self.root)),
            *("--topology", str(self.root / "topology.conf"), "--inventory", str(self.root / "inventory.json")),
            *("--host", "box", "--state-dir", str(self.root / "state"), "--log-dir", str(self.root / "log")),
        ]

    def apply(self, *words: str) -> dict[str, Any]:
        command = self.command("apply", "--json", "--supervisor-config", str(self.root / "supervisord.conf"), *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def supervisorctl(self, *words: str) -> str:
        command = [str(BIN / "supervisorctl"), "-c", str(self.root / "supervisord.conf"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def pids(self) -> dict[str, str]:
        lines = self.supervisorctl("status").splitlines()
        running = [line.replace(",", "").split() for line in lines if " RUNNING " in line]
        return {words[0]: words[words.index("pid") + 1] for words in running}


def slot(name: str, *queues: str, **more: str) -> str:
    return (
        f"  {{ name: {name}, gpus: 0, queues: {json.dumps(queues)} {''.join(f', {k}: {v}' for k, v in more.items())} }}"
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "r"  # a socket's path is short
    (root / "etc/supervisor/conf.d").mkdir(parents=True)
    (root / "inventory.json").write_text(json.dumps(GPUS))
    (root / "supervisord.conf").write_text(
        f"[unix_http_server]\nfile={root}/s\n[supervisorctl]\nserverurl=unix://{root}/s\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisord]\nnodaemon=true\nlogfile={root}/supervisord.log\npidfile={root}/pid\n"
        "[include]\nfiles=etc/supervisor/conf.d/*.conf\n"
    )
    with ServerProcess(tmp_path / "server") as server, (root / "out").open("wb") as out:
        command = [str(BIN / "supervisord"), "-n", "-c", str(root / "supervisord.conf")]
        supervisord = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HOME": str(tmp_path)})
        try:
            wait_for((root / "s").exists)
            yield Site(root, server)
        finally:
            for pid in Site(root, server).pids().values():
                os.kill(int(pid), signal.SIGINT)  # ends tasks, too
            wait_for(lambda: not Site(root, server).pids())
            supervisord.send_signal(signal.SIGTERM)
            supervisord.wait(30)


def test_apply_starts_changes_and_removes_agents_without_touching_the_others(site: Site) -> None:
    site.declare(slot("one", "first"), slot("two", "second"))
    assert set(site.apply()["done"].values()) == {"started"}
    before = site.pids()
    assert set(before) == {"one", "two"}
    wait_for(lambda: len(site.server.call("workers.get_all", last_seen=60)["workers"]) == 2)
    workers = {worker["id"] for worker in site.server.call("workers.get_all", last_seen=60)["workers"]}
    assert workers == {"box:one", "box:two"}

    assert set(site.apply()["done"].values()) == {"unchanged"}
    site.declare(slot("one", "first"), slot("two", "second", "other"), slot("three", "third"))
    done = site.apply()["done"]
    assert done == {"one": "unchanged", "three": "started", "two": "restarted"}
    after = site.pids()
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]

    site.declare(slot("one", "first"), slot("three", "third"))
    assert site.apply()["done"] == {"one": "unchanged", "three": "unchanged", "two": "removed"}
    assert site.pids() == {name: pid for name, pid in after.items() if name != "two"}
    assert not (site.root / "etc/supervisor/conf.d/clearml-agent-two.conf").exists()
    assert subprocess.run(site.command("diff"), capture_output=True, check=False).returncode == 0


def test_supervisorctl_update_by_hand_touches_only_what_was_emitted_anew(site: Site) -> None:
    site.declare(slot("one", "first"), slot("two", "second"))
    site.apply()
    before = site.pids()
    site.declare(slot("one", "first"), slot("two", "second", "other"))
    subprocess.run(site.command("emit", "--output", str(site.root)), check=True, capture_output=True)
    assert "two: updated process group" in site.supervisorctl("update")
    after = wait_for(lambda: len(found := site.pids()) == 2 and found)
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]


def test_a_task_goes_on_while_its_agent_is_restarted_and_is_finished_before_its_agent_goes(site: Site) -> None:
    site.declare(slot("one", "first"), slot("two", "second"))
    site.apply()
    task = create_script(site.server, COUNTING, queue="first")
    wait_for(lambda: console_of(site.server, task, level="DEBUG"))
    before = site.pids()["one"]
    site.declare(slot("one", "first", "other"), slot("two", "second"))
    assert site.apply()["done"]["one"] == "restarted"
    assert site.pids()["one"] != before
    assert wait_for_status(site.server, task, "completed", "failed")["status"] == "completed"
    assert console_of(site.server, task, level="DEBUG") == [f"line {number}" for number in range(60)]

    go = site.root / "go"
    task = create_script(site.server, WAITING.replace("PATH", repr(str(go))), queue="second")
    wait_for(lambda: console_of(site.server, task, level="DEBUG"))
    site.declare(slot("one", "first", "other"))
    assert "two" in site.apply("--no-wait")["waiting"]
    assert "two" in site.pids()
    go.touch()
    assert site.apply()["done"]["two"] == "removed"
    assert wait_for_status(site.server, task, "completed", "failed")["status"] == "completed"
    assert set(site.pids()) == {"one"}


def test_an_agent_that_is_killed_comes_back_and_adopts_its_task(site: Site) -> None:
    site.declare(slot("one", "first"))
    site.apply()
    task = create_script(site.server, COUNTING, queue="first")
    wait_for(lambda: console_of(site.server, task, level="DEBUG"))
    before = site.pids()["one"]
    os.kill(int(before), signal.SIGKILL)
    wait_for(lambda: site.pids().get("one", before) != before)
    assert wait_for_status(site.server, task, "completed", "failed")["status"] == "completed"
    assert console_of(site.server, task, level="DEBUG") == [f"line {number}" for number in range(60)]


def test_an_agent_that_cannot_start_is_named(site: Site) -> None:
    site.declare(slot("one", "first", options='["--no-such-option"]'))
    command = site.command("apply", "--supervisor-config", str(site.root / "supervisord.conf"), "--ready-timeout", "60")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not running: one" in done.stderr
