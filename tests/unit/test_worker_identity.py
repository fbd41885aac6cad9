"""Worker ids, and the lock that makes an agent the only one of its id."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.settings import settings_for

from agent.errors import AlreadyRunning
from agent.models import WorkerSetup
from agent.worker.identity import file_name_of, take_identity

AGENT = replace(settings_for().agent, worker_name="host", worker_id="")


@pytest.mark.parametrize(
    ("agent", "setup", "ids"),
    [
        (AGENT, WorkerSetup(settings={}), ["host:0", "host:1"]),
        (AGENT, WorkerSetup(settings={}, cpu_only=True), ["host:cpu:0", "host:cpu:1"]),
        (AGENT, WorkerSetup(settings={}, gpu_suffix="gpu0,1"), ["host:gpu0,1"]),
        (replace(AGENT, worker_id="mine"), WorkerSetup(settings={}, gpu_suffix="gpu0"), ["mine"]),
    ],
    ids=["slots", "cpu slots", "gpus", "configured"],
)
def test_agents_of_one_host_get_the_ids_of_the_scheme(
    tmp_path: Path, agent: object, setup: WorkerSetup, ids: list[str]
) -> None:
    taken = [take_identity(tmp_path, agent, setup) for _ in ids]  # type: ignore[arg-type]
    assert [identity.worker_id for identity in taken] == ids
    for identity in taken:
        identity.release()


def test_a_second_agent_of_the_same_id_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    setup = WorkerSetup(settings={}, gpu_suffix="gpu0")
    first = take_identity(tmp_path, AGENT, setup)
    with pytest.raises(AlreadyRunning, match="host:gpu0"):
        take_identity(tmp_path, AGENT, setup)
    first.release()
    take_identity(tmp_path, AGENT, setup).release()


def test_the_smallest_free_slot_is_taken(tmp_path: Path) -> None:
    setup = WorkerSetup(settings={})
    taken = [take_identity(tmp_path, AGENT, setup) for _ in range(3)]
    taken[1].release()
    again = take_identity(tmp_path, AGENT, setup)
    assert again.slot == 1
    for identity in (taken[0], taken[2], again):
        identity.release()


def test_the_record_says_who_holds_the_id(tmp_path: Path) -> None:
    identity = take_identity(tmp_path, AGENT, WorkerSetup(settings={}))
    identity.say(ready=True)
    record = json.loads(identity.record.read_text())
    assert record["pid"] == os.getpid()
    assert record["ready"] is True
    assert identity.record.stat().st_mode & 0o077 == 0
    identity.release()
    assert not identity.record.exists()


def test_file_names_are_plain_and_different_for_different_ids() -> None:
    names = [file_name_of(name) for name in ("host:gpu0,1", "host:gpu0/1", "host%3agpu0,1", "höst", "host:cpu:0")]
    assert len(set(names)) == len(names)
    assert all("/" not in name and name.isascii() for name in names)
