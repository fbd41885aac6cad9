"""What a restarted agent does with each thing its predecessor can have left behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import FakeClient, fake_api
from support.runs import claim_of, run_context

from agent.api.queues import Queue
from agent.api.server import Features
from agent.files import write_json
from agent.process.procfs import start_ticks_of
from agent.runner.claim import Source
from agent.runner.context import GoneHandle, Running
from agent.runner.recovery import recover
from agent.runner.rundir import RunDirectory, Runs
from agent.runtimes.base import Handle
from agent.states import RunPhase

SOURCE = Source(queues=(Queue("q1", "train"),), features=Features(repeatable_pop=True), api_version=(2, 34))


def _left_behind(root: Path, phase: RunPhase, files: Mapping[str, Any] | None = None) -> RunDirectory:
    run, _ = Runs(root).create(claim_of(phase=phase, claimed_at_ms=int(time.time() * 1000)))
    for name, content in (files or {}).items():
        write_json(run.path / f"{name}.json", content)
    return run


def _recover(
    root: Path, *, status: str, message: str = "Changed by clearml-agent w", popped: bool = True
) -> tuple[list[Running], FakeClient]:
    api, client = fake_api(
        queues__get_next_task=lambda _: {"entry": {"task": "t1"}} if popped else {},
        tasks__get_all=lambda _: {"tasks": [{"id": "t1", "status": status, "status_message": message}]},
        tasks__enqueue=lambda _: {},
        queues__move_task_to_front=lambda _: {},
    )

    async def scenario() -> list[Running]:
        context = run_context(api, SOURCE.features)
        return await recover(lambda claim: context, Runs(root), agent="w")

    return asyncio.run(scenario()), client


def _given_back(client: FakeClient) -> bool:
    return bool(client.sent("tasks.enqueue")) and bool(client.sent("queues.move_task_to_front"))


def test_a_claim_whose_pop_had_happened_goes_back_to_the_front(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.CLAIMING)
    unfinished, client = _recover(tmp_path, status="queued")
    assert unfinished == []
    assert _given_back(client)
    assert list(Runs(tmp_path)) == []


def test_a_claim_whose_pop_never_happened_is_forgotten(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.CLAIMING)
    _, client = _recover(tmp_path, status="queued", popped=False)
    assert not _given_back(client)
    assert list(Runs(tmp_path)) == []


@pytest.mark.parametrize(
    ("status", "back"), [("queued", True), ("in_progress", True), ("stopped", False), ("created", False)]
)
def test_a_claimed_task_is_given_back_unless_somebody_ended_it(tmp_path: Path, status: str, back: bool) -> None:
    _left_behind(tmp_path, RunPhase.CLAIMED)
    _, client = _recover(tmp_path, status=status)
    assert _given_back(client) is back
    assert list(Runs(tmp_path)) == []


def test_a_task_that_was_started_but_never_launched_is_given_back(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.STARTED)
    unfinished, client = _recover(tmp_path, status="in_progress")
    assert unfinished == []
    assert client.sent("tasks.enqueue")[0]["force"] is True


def test_a_task_with_an_outcome_is_seen_through(tmp_path: Path) -> None:
    launch = {"pid": 1, "start_ticks": 1}
    _left_behind(tmp_path, RunPhase.STARTED, {"launch": launch, "outcome": {"phase": "run", "exit_code": 0}})
    unfinished, client = _recover(tmp_path, status="in_progress")
    assert [isinstance(one.handle, GoneHandle) for one in unfinished] == [True]
    assert not _given_back(client)


def test_a_task_whose_executor_died_is_seen_through_as_dead_not_run_again(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.STARTED, {"launch": {"pid": 1, "start_ticks": 1}})
    unfinished, client = _recover(tmp_path, status="in_progress")
    assert [isinstance(one.handle, GoneHandle) for one in unfinished] == [True]
    assert not _given_back(client)


ENDED_FILES = {"launch": {"pid": 1, "start_ticks": 1}, "outcome": {"phase": "run", "exit_code": 0}}


@pytest.mark.parametrize("phase", [RunPhase.STARTED, RunPhase.EXITED])
@pytest.mark.parametrize(
    ("status", "message"), [("created", "reset"), ("queued", ""), ("in_progress", "Changed by clearml-agent other")]
)
def test_an_ended_run_of_a_task_that_has_begun_anew_is_not_reported(
    tmp_path: Path, phase: RunPhase, status: str, message: str
) -> None:
    """This host was away for a day; meanwhile somebody reset the task and another agent has it."""
    _left_behind(tmp_path, phase, ENDED_FILES)
    unfinished, _ = _recover(tmp_path, status=status, message=message)
    assert unfinished == []
    assert list(Runs(tmp_path)) == []


@pytest.mark.parametrize("phase", [RunPhase.CLAIMED, RunPhase.STARTED])
def test_an_abort_of_a_task_that_was_never_launched_is_confirmed_not_given_back(
    tmp_path: Path, phase: RunPhase
) -> None:
    run = _left_behind(tmp_path, phase)
    unfinished, client = _recover(tmp_path, status="in_progress", message="stopping")
    assert [isinstance(one.handle, GoneHandle) for one in unfinished] == [True]
    assert json.loads((run.path / "stop.json").read_text())["cause"] == "abort"
    assert not _given_back(client)


@pytest.mark.parametrize("phase", [RunPhase.CLAIMED, RunPhase.STARTED])
@pytest.mark.parametrize(
    ("status", "message"), [("stopped", ""), ("created", "reset"), ("in_progress", "Changed by clearml-agent other")]
)
def test_a_task_that_was_never_launched_and_is_not_ours_any_more_is_left_alone(
    tmp_path: Path, phase: RunPhase, status: str, message: str
) -> None:
    _left_behind(tmp_path, phase)
    unfinished, client = _recover(tmp_path, status=status, message=message)
    assert (unfinished, _given_back(client), list(Runs(tmp_path))) == ([], False, [])


def test_a_claimed_task_that_the_server_has_given_to_another_agent_is_not_given_back(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.CLAIMED)
    _, client = _recover(tmp_path, status="queued", popped=False)
    assert not _given_back(client)


def test_a_claim_of_another_version_does_not_keep_the_agent_from_its_work(tmp_path: Path) -> None:
    run = _left_behind(tmp_path, RunPhase.CLAIMED)
    write_json(run.path / "claim.json", {"task": "t1", "phase": "undreamt of"})
    unfinished, client = _recover(tmp_path, status="queued")
    assert (unfinished, client.calls) == ([], [])


def test_a_living_executor_is_adopted(tmp_path: Path) -> None:
    run = _left_behind(
        tmp_path, RunPhase.STARTED, {"launch": {"pid": os.getpid(), "start_ticks": start_ticks_of(os.getpid())}}
    )
    with open(run.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unfinished, _ = _recover(tmp_path, status="in_progress")
    handles: list[Handle] = [one.handle for one in unfinished]
    assert [type(handle).__name__ for handle in handles] == ["HostProcess"]


def test_a_reported_run_is_only_swept_up(tmp_path: Path) -> None:
    _left_behind(tmp_path, RunPhase.REPORTED)
    unfinished, client = _recover(tmp_path, status="completed")
    assert (unfinished, client.calls, list(Runs(tmp_path))) == ([], [], [])


def test_the_runs_of_another_agent_are_not_touched(tmp_path: Path) -> None:
    run = _left_behind(tmp_path, RunPhase.CLAIMED)
    claim = json.loads((run.path / "claim.json").read_text())
    write_json(run.path / "claim.json", {**claim, "worker": "somebody else"})
    _, client = _recover(tmp_path, status="queued")
    assert client.calls == []
    assert len(list(Runs(tmp_path))) == 1
