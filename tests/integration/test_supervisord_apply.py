"""`supervisor-gen apply --format supervisord` on a running supervisord, with real agents, tasks and a server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import console_of, create_script, wait_for, wait_for_status
from support.supervisord import WAITING, Site, slot, supervised

COUNTING = """
import time
for number in range(60):
    print("line", number, flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with supervised(tmp_path) as found:
        yield found


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
