"""Files of a run that a full disk, a power failure or another version has left: nothing of it stops an agent."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import JSON, examples
from support.fake_api import FakeClient, fake_api
from support.runs import claim_of, run_context

from agent.api.queues import Queue
from agent.api.server import Features
from agent.files import write_json
from agent.models import Task
from agent.process.procfs import start_ticks_of
from agent.runner import claim as claiming
from agent.runner.claim import Source
from agent.runner.context import Running
from agent.runner.judging import judge, say_end
from agent.runner.lifecycle import give_up
from agent.runner.recovery import recover
from agent.runner.rundir import UNREADABLE, RunDirectory, Runs
from agent.runner.writeback import calls_for
from agent.runtimes import host
from agent.runtimes.host import end_leftovers
from agent.states import RunPhase
from agent.worker.marks import Drain, Failures

SOURCE = Source(queues=(Queue("q1", "train"),), features=Features(), api_version=(2, 34))
BROKEN = (b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe\x00", b"[" * 100000, b"{}", b'{"version": 2}')
FILES = ("claim", "task", "setup", "launch", "outcome", "user", "environment", "stop", "verdict")
GOOD: dict[str, Any] = {
    "task": {"id": "t1", "status": "queued", "script": {}},
    "launch": {"pid": 4_000_000, "start_ticks": 1},
    "user": {"pid": 4_000_000, "pgid": 4_000_000, "start_ticks": 1, "argv": [], "cwd": "/"},
    "outcome": {"phase": "run", "exit_code": 0},
    "environment": {"frozen": ["six==1"], "commit": "c"},
    "stop": {"cause": "abort"},
    "setup": {},
}
#: Only there once a run was judged.
GOOD_VERDICT = {"status": "failed", "reason": "r", "notice": "n", "exit_code": 3}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "OTHERS_START_SECONDS", 0.0)
    monkeypatch.setattr(host, "SAY_SECONDS", 0.2)


def _left_behind(root: Path, phase: RunPhase = RunPhase.STARTED) -> RunDirectory:
    run, _ = Runs(root).create(claim_of(phase=phase))
    for name, content in GOOD.items():
        write_json(run.path / f"{name}.json", content)
    return run


def _age(run: RunDirectory) -> None:
    long_ago = time.time() - 3600
    os.utime(run.path, (long_ago, long_ago))


def _recover(
    root: Path, *, status: str = "in_progress", message: str = "Changed by clearml-agent w"
) -> tuple[list[Running], FakeClient]:
    listed = [{"id": "t1", "status": status, "status_message": message}] if status else []
    api, client = fake_api(
        tasks__get_all=lambda _: {"tasks": listed},
        tasks__get_by_id=lambda _: {"task": {"id": "t1", "status": status, "execution": {"queue": "q1"}}},
        tasks__enqueue=lambda _: {},
        tasks__failed=lambda _: {},
        queues__get_by_id=lambda _: {"queue": {"entries": []}},
        queues__move_task_to_front=lambda _: {},
    )
    context = run_context(api, SOURCE.features)

    async def scenario() -> list[Running]:
        return await asyncio.wait_for(recover(lambda claim: context, Runs(root), agent="w"), 30)

    return asyncio.run(scenario()), client


def _see(running: Running) -> str:
    """What becomes of a run that recovery wants to be seen through, judged by its files."""
    for call in calls_for(running.task, running.run.read("environment") or {}):
        json.dumps(call.body)
    verdict = running.run.read_verdict() or judge(running.run)
    say_end(running.run, running.claim, verdict)
    return verdict.status.value if verdict.status else "none"


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("name", FILES[1:])
def test_a_broken_file_leaves_a_run_that_is_reported(tmp_path: Path, name: str, content: bytes) -> None:
    run = _left_behind(tmp_path)
    (run.path / f"{name}.json").write_bytes(content)
    unfinished, client = _recover(tmp_path)
    assert [one.claim.task for one in unfinished] == ["t1"]
    assert client.sent("tasks.enqueue") == []
    expected = {"outcome": "stopped", "stop": "completed"}.get(name, "completed")
    assert _see(unfinished[0]) == expected


@pytest.mark.parametrize("name", [*FILES, "console/shipped"])
def test_a_folder_in_the_place_of_a_file_stops_nobody(tmp_path: Path, name: str) -> None:
    run = _left_behind(tmp_path)
    (run.path / f"{name}.json").unlink(missing_ok=True)
    (run.path / f"{name}.json").mkdir()
    _age(run)
    unfinished, _ = _recover(tmp_path)
    assert [one.claim.task for one in unfinished] == ["t1"]


@examples(120)
@given(name=st.sampled_from(FILES), value=JSON, keep=st.booleans(), data=st.data())
def test_any_content_of_any_file_is_survived(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any, keep: bool, data: st.DataObject
) -> None:
    """A whole file of anything, or a good one with a field of anything."""
    root = tmp_path_factory.mktemp("runs")
    run = _left_behind(root)
    path = run.path / f"{name}.json"
    known = json.loads(path.read_bytes()) if path.exists() else dict(GOOD_VERDICT)
    if keep and known:
        known[data.draw(st.sampled_from(sorted(known)))] = value
        value = known
    path.write_bytes(json.dumps(value, default=str).encode("utf-8", "surrogatepass"))
    _age(run)
    unfinished, _ = _recover(root)
    for running in unfinished:
        _see(running)


# --- no claim that can be read


@pytest.mark.parametrize("content", [*BROKEN, None])
def test_a_run_without_a_claim_that_the_server_says_is_ours_is_reported(tmp_path: Path, content: bytes | None) -> None:
    run = _left_behind(tmp_path)
    (run.path / "claim.json").unlink()
    if content is not None:
        (run.path / "claim.json").write_bytes(content)
    _age(run)
    unfinished, _ = _recover(tmp_path)
    assert [(one.claim.task, one.claim.worker) for one in unfinished] == [("t1", "w")]
    (run.path / "stop.json").unlink()
    assert _see(unfinished[0]) == "completed"


@pytest.mark.parametrize("status", ["", "completed", "stopped", "created", "queued"])
def test_a_run_without_a_claim_that_is_nobodys_is_moved_aside_and_kept(
    tmp_path: Path, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = _left_behind(tmp_path)
    (run.path / "claim.json").write_bytes(b"{")
    _age(run)
    unfinished, client = _recover(tmp_path, status=status, message="")
    assert unfinished == []
    assert list(Runs(tmp_path)) == []
    (kept,) = (tmp_path / UNREADABLE).iterdir()
    assert (kept / "task.json").exists()
    assert [record.message for record in caplog.records if "cannot be understood" in record.message] == [
        f"run t1.1 cannot be understood (no claim of this version in it); its files are now in {kept}"
    ]
    assert bool(client.sent("tasks.enqueue")) is (status == "queued")
    assert _recover(tmp_path)[1].calls == []


def test_a_run_without_a_claim_of_another_worker_is_left_to_it(tmp_path: Path) -> None:
    run = _left_behind(tmp_path)
    (run.path / "claim.json").write_bytes(b"{")
    _age(run)
    unfinished, _ = _recover(tmp_path, message="Changed by clearml-agent other")
    assert (unfinished, [each.path for each in Runs(tmp_path)]) == ([], [run.path])


def test_a_run_that_is_just_being_made_is_not_touched(tmp_path: Path) -> None:
    run = _left_behind(tmp_path)
    (run.path / "claim.json").unlink()
    assert _recover(tmp_path)[1].calls == []
    assert [each.path for each in Runs(tmp_path)] == [run.path]


def test_a_living_executor_whose_claim_is_torn_is_adopted(tmp_path: Path) -> None:
    run = _left_behind(tmp_path)
    write_json(run.path / "launch.json", {"pid": os.getpid(), "start_ticks": start_ticks_of(os.getpid())})
    (run.path / "claim.json").write_bytes(b"")
    _age(run)
    with open(run.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _age(run)
        unfinished, _ = _recover(tmp_path)
    assert [type(one.handle).__name__ for one in unfinished] == ["HostProcess"]


# --- processes


@pytest.mark.parametrize("content", [*BROKEN, b'{"pid": 1, "start_ticks": 1}', b'{"pid": -1, "start_ticks": null}'])
def test_an_executor_that_did_not_say_who_it_is_is_found_by_its_lock(tmp_path: Path, content: bytes) -> None:
    run = _left_behind(tmp_path)
    (run.path / "launch.json").write_bytes(content)
    with open(run.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        executor = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    try:
        unfinished, _ = _recover(tmp_path)
        assert [getattr(one.handle, "pid", 0) for one in unfinished] == [executor.pid]
    finally:
        executor.kill()
        executor.wait()


@pytest.mark.parametrize(
    "change",
    [{"pgid": 0}, {"pgid": 1}, {"pgid": -1}, {"pid": "x"}, {"start_ticks": None}, {"pid": 1, "pgid": 1}, {"pid": True}],
)
def test_nobody_is_killed_on_the_word_of_a_torn_file(tmp_path: Path, change: dict[str, Any]) -> None:
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        good = {"pid": bystander.pid, "pgid": bystander.pid, "start_ticks": start_ticks_of(bystander.pid)}
        write_json(tmp_path / "user.json", {**good, **change})
        assert not end_leftovers(tmp_path)
        assert bystander.poll() is None
    finally:
        os.killpg(bystander.pid, signal.SIGKILL)
        bystander.wait()


# --- the rest


def test_of_a_task_whose_description_is_lost_nothing_is_written_back() -> None:
    environment = {"frozen": ["six==1"], "commit": "c"}
    assert calls_for(Task(id="t1"), environment) == []
    assert len(calls_for(Task.from_wire({"id": "t1"}), environment)) == 2


def test_a_run_that_cannot_be_seen_through_is_reported_as_failed(tmp_path: Path) -> None:
    run = _left_behind(tmp_path)
    (running,), _ = _recover(tmp_path)
    api, client = fake_api(
        tasks__get_all=lambda _: {
            "tasks": [{"id": "t1", "status": "in_progress", "status_message": "Changed by clearml-agent w"}]
        },
        tasks__failed=lambda _: {},
    )
    asyncio.run(give_up(run_context(api, SOURCE.features), running, "internal error of the agent: X"))
    assert client.sent("tasks.failed")[0]["status_reason"] == "internal error of the agent: X"
    kept = Runs(tmp_path).set_aside(run)
    assert (kept / "claim.json").exists()
    assert list(Runs(tmp_path)) == []


@pytest.mark.parametrize("content", [*BROKEN, b'{"boot": 5, "at": "x"}'])
def test_torn_marks_of_an_agent_are_no_marks(tmp_path: Path, content: bytes) -> None:
    record = tmp_path / "w.lock"
    for kind in ("failures", "draining"):
        record.with_suffix(f".{kind}").write_bytes(content)
    assert Failures(record).count == 0
    assert not Drain(record).is_wanted()


@pytest.mark.parametrize("value", ["x", None, [], -5, 10**30, 1.5])
def test_a_count_of_failures_that_is_none_counts_as_none(tmp_path: Path, value: Any) -> None:
    record = tmp_path / "w.lock"
    Failures(record).begin()
    path = record.with_suffix(".failures")
    path.write_text(json.dumps({**json.loads(path.read_text()), "count": value}))
    assert Failures(record).count == 0
