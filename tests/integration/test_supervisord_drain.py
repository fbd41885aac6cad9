"""`supervisor-gen drain`, `resume` and `status` on a running supervisord, with real agents, tasks and a server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import console_of, create_script, status_of, wait_for, wait_for_status
from support.supervisord import WAITING, Site, slot, supervised


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with supervised(tmp_path) as found:
        found.declare(slot("one", "first"), slot("two", "second"))
        found.apply()
        yield found


def condition(site: Site, agent: str) -> str:
    """As supervisorctl says it: RUNNING, EXITED, FATAL, …"""
    return site.supervisorctl("status", agent).split()[1]


def test_a_drained_agent_finishes_its_task_survives_a_kill_and_stays_away_until_it_is_resumed(site: Site) -> None:
    go = site.root / "go"
    task = create_script(site.server, WAITING.replace("PATH", repr(str(go))), queue="first")
    wait_for(lambda: console_of(site.server, task, level="DEBUG"))
    found = site.generator("drain", "one", "--timeout", "0", "--why", "disk", code=1)
    assert found["changed"]
    assert found["running"]["one"]["tasks"] == [task]
    assert site.generator("status")["agents"]["one"]["held"]["why"] == "disk"

    before = site.pids()["one"]
    os.kill(int(before), signal.SIGKILL)
    wait_for(lambda: site.pids().get("one", before) != before)
    other = create_script(site.server, "print('other')", queue="first")
    go.touch()
    assert site.generator("drain", "one")["left"] == ["one"]
    assert wait_for_status(site.server, task, "completed", "failed")["status"] == "completed"

    site.declare(slot("one", "first", "more"), slot("two", "second"))
    assert site.apply()["done"] == {"one": "held: left alone", "two": "unchanged"}
    site.supervisorctl("start", "one")
    assert condition(site, "one") in ("EXITED", "RUNNING")
    wait_for(lambda: condition(site, "one") == "EXITED")
    assert status_of(site.server, other) == "queued"

    found = site.generator("resume")
    assert found["done"] == {"one": "resumed", "two": "unchanged"}
    assert found["agents"]["one"]["queues"] == ["first", "more"]
    assert wait_for_status(site.server, other, "completed", "failed")["status"] == "completed"


def test_a_supervisord_that_is_started_again_does_not_give_up_held_agents(site: Site) -> None:
    assert site.generator("drain")["left"] == ["one", "two"]
    site.supervisorctl("reload")
    wait_for(lambda: "RUNNING" in site.supervisorctl("status"))
    wait_for(lambda: condition(site, "one") == condition(site, "two") == "EXITED")
    assert "BACKOFF" not in (site.root / "supervisord.log").read_text()
    assert site.generator("drain")["changed"] is False
    assert set(site.generator("resume")["done"].values()) == {"resumed"}
    assert set(site.pids()) == {"one", "two"}
