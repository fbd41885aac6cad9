"""The two moments at which the server is told something that cannot be taken back: the start and the end of a task."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import FakeClient, fake_api
from support.runs import claim_of, run_context

from agent.api.server import Features
from agent.errors import ApiError, ReplyLost, ServerUnreachable
from agent.models import Task
from agent.runner import report as report_module
from agent.runner import start
from agent.runner.claim import Claimed
from agent.runner.context import RunContext
from agent.runner.lifecycle import run_task
from agent.runner.outcome import Verdict, signature
from agent.runner.report import report
from agent.runner.rundir import Claim, RunDirectory, Runs
from agent.runner.start import start_on_server
from agent.runtimes.host import HostRuntime
from agent.states import RunPhase, TaskStatus

OURS, THEIRS = signature("w"), signature("elsewhere:0")


class TaskServer:
    """One task. `faults` are raised by the status calls in turn, "before" or "after" their effect; `meanwhile` is what
    somebody else does to the task while the reply is on its way.
    """

    def __init__(
        self,
        status: str = "queued",
        message: str = "",
        *,
        faults: tuple[tuple[str, Exception], ...] = (),
        meanwhile: tuple[str, str] | None = None,
        is_leased_to_us: bool = True,
        started: str = "",
    ) -> None:
        self.status, self.message, self.started = status, message, started
        self.faults = list(faults)
        self.meanwhile = meanwhile
        self.is_leased_to_us = is_leased_to_us

    def change(self, status: str) -> Callable[[Any], dict[str, Any]]:
        def handle(body: dict[str, Any]) -> dict[str, Any]:
            when, fault = self.faults.pop(0) if self.faults else ("", None)
            if when != "before":
                self.status, self.message = status, body["status_message"]
            if fault is not None:
                if self.meanwhile is not None:
                    self.status, self.message = self.meanwhile
                raise fault
            return {}

        return handle

    def handlers(self) -> dict[str, Any]:
        return {
            "tasks__started": self.change("in_progress"),
            "tasks__completed": self.change("completed"),
            "tasks__stopped": self.change("stopped"),
            "tasks__failed": self.change("failed"),
            "tasks__get_all": lambda _: {
                "tasks": [{"id": "t1", "status": self.status, "status_message": self.message, "started": self.started}]
            },
            "tasks__get_by_id": lambda _: {"task": {"id": "t1", "status": self.status}},
            "tasks__set_requirements": lambda _: {},
            "tasks__edit": lambda _: {},
            "events__add_batch": lambda batch: {"added": len(batch)},
            "queues__get_next_task": lambda _: {"entry": {"task": "t1"}} if self.is_leased_to_us else {},
        }


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> Iterator[float]:
        while True:
            yield 0.0

    for module in (start, report_module):
        monkeypatch.setattr(module, "growing_pauses", pauses)


def _context(server: TaskServer, runtime: HostRuntime | None = None) -> tuple[RunContext, FakeClient]:
    api, client = fake_api(**server.handlers())

    features = Features(repeatable_pop=True, log_ids=True)
    return run_context(api, features, runtime=runtime or HostRuntime(), executor_environ=dict(os.environ)), client


def _claimed(root: Path, *, queue: str = "q1", **script: Any) -> Claimed:
    run, claim = Runs(root).create(claim_of(queue=queue, token="token", phase=RunPhase.CLAIMED))
    task = Task.from_wire({"id": "t1", "status": "queued", "script": script})
    run.write_task(task)
    return Claimed(run=run, claim=claim, task=task)


def _start(server: TaskServer, root: Path) -> tuple[Claim | None, int]:
    async def scenario() -> tuple[Claim | None, int]:
        context, client = _context(server)
        claim = await start_on_server(context, _claimed(root))
        return claim, len(client.sent("tasks.started"))

    return asyncio.run(scenario())


LOST = ("after", ReplyLost("timed out"))
REFUSED = ("before", ServerUnreachable("refused"))
BAD_GATEWAY = ("after", ApiError("tasks.started", 502, 0, "bad gateway"))


@pytest.mark.parametrize("fault", [LOST, BAD_GATEWAY], ids=["lost", "502"])
def test_a_start_whose_reply_was_lost_is_not_repeated(tmp_path: Path, fault: tuple[str, Exception]) -> None:
    claim, calls = _start(TaskServer(faults=(fault,)), tmp_path)
    assert claim is not None
    assert claim.phase is RunPhase.STARTED
    assert calls == 1


def test_a_task_that_is_aborted_while_the_reply_to_its_start_is_lost_is_stopped_not_run(tmp_path: Path) -> None:
    """The word hides whose start it was: another agent may run the task."""
    server = TaskServer(faults=(LOST,), meanwhile=("in_progress", "stopping"))
    claim, calls = _start(server, tmp_path)
    assert (claim, calls) == (None, 1)
    assert server.status == "stopped"
    assert list(Runs(tmp_path)) == []


def test_a_claim_knows_when_its_run_was_started(tmp_path: Path) -> None:
    claim, _ = _start(TaskServer(started="2026-01-01T10:00:00"), tmp_path)
    assert claim is not None
    assert claim.started == "2026-01-01T10:00:00"


@pytest.mark.parametrize("status", ["stopped", "created"])
def test_a_task_that_was_ended_while_the_server_was_away_is_not_started(tmp_path: Path, status: str) -> None:
    """stopped → in_progress is a change that the server would allow."""
    claim, calls = _start(TaskServer(faults=(REFUSED,), meanwhile=(status, "")), tmp_path)
    assert (claim, calls) == (None, 1)
    assert list(Runs(tmp_path)) == []


def test_a_task_that_went_to_another_agent_while_the_server_was_away_is_not_started(tmp_path: Path) -> None:
    """The server takes a pop back of which it hears nothing for two minutes."""
    running, _ = _start(TaskServer(faults=(REFUSED,), meanwhile=("in_progress", THEIRS)), tmp_path)
    popped, calls = _start(TaskServer(faults=(REFUSED,), is_leased_to_us=False), tmp_path)
    assert (running, popped, calls) == (None, None, 1)


def test_a_start_is_tried_until_the_server_is_back(tmp_path: Path) -> None:
    claim, calls = _start(TaskServer(faults=(REFUSED,) * 3), tmp_path)
    assert (claim is not None, calls) == (True, 4)


DONE = Verdict(status=TaskStatus.COMPLETED, reason="worker execution done", notice="done", exit_code=0)


def _report(server: TaskServer, root: Path, *, verdict: Verdict = DONE, started: str = "") -> int:
    async def scenario() -> int:
        context, client = _context(server)
        await report(context, replace(_claimed(root).claim, started=started), verdict)
        return len(client.sent("tasks.completed"))

    return asyncio.run(scenario())


def test_a_final_status_is_written_once_the_server_is_back(tmp_path: Path) -> None:
    server = TaskServer("in_progress", OURS, faults=(REFUSED,) * 3)
    assert _report(server, tmp_path) == 4
    assert server.status == "completed"


def test_a_final_status_whose_reply_was_lost_is_not_written_again(tmp_path: Path) -> None:
    """By the time of a repeat the task could have been reset and be running again."""
    assert _report(TaskServer("in_progress", OURS, faults=(LOST,)), tmp_path) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [("stopped", "Stopped by somebody"), ("queued", ""), ("created", "reset"), ("in_progress", THEIRS)],
)
def test_a_status_that_is_not_ours_to_change_stands(tmp_path: Path, status: str, message: str) -> None:
    server = TaskServer(status, message)
    assert _report(server, tmp_path) == 0
    assert server.status == status


def test_a_task_that_the_watchdog_took_for_dead_gets_its_real_end(tmp_path: Path) -> None:
    server = TaskServer("stopped", "Forced stop (non-responsive)")
    assert _report(server, tmp_path) == 1
    assert server.status == "completed"


def test_a_later_start_by_the_same_worker_is_not_ended_by_the_report_of_the_one_before(tmp_path: Path) -> None:
    """A service that was reset and queued again while its host was away comes back to the same sub-worker."""
    server = TaskServer("in_progress", OURS, started="later")
    assert _report(server, tmp_path, started="before") == 0
    assert server.status == "in_progress"


def test_an_abort_of_a_later_start_is_confirmed_not_turned_into_the_end_of_the_one_before(tmp_path: Path) -> None:
    server = TaskServer("in_progress", "stopping", started="later")
    assert _report(server, tmp_path, started="before") == 0
    assert server.status == "stopped"


def test_a_task_that_is_aborted_is_not_queued_again_because_the_hours_are_over(tmp_path: Path) -> None:
    server = TaskServer("in_progress", "stopping")
    again = Verdict(status=TaskStatus.QUEUED, reason="hours", notice="queued again", exit_code=254)
    _report(server, tmp_path, verdict=again)
    assert server.status == "stopped"


def test_an_abort_that_reaches_a_task_at_its_end_does_not_keep_it_from_completed(tmp_path: Path) -> None:
    server = TaskServer("in_progress", "stopping")
    assert _report(server, tmp_path) == 1


#: An executor that finds out what the task got, and ends at once.
EXECUTOR = """
import json, os, sys
run = sys.argv[1]
def write(name, value):
    open(os.path.join(run, name + ".new"), "w").write(json.dumps(value))
    os.rename(os.path.join(run, name + ".new"), os.path.join(run, name))
write("launch.json", {"pid": os.getpid(), "start_ticks": 0})
write("environment.json", {"version": 1, "frozen": ["numpy==2.1"], "commit": "c0ffee"})
write("outcome.json", ENDS)
"""


def _run(
    server: TaskServer, root: Path, *, ends: str = '{"phase": "run", "exit_code": 0}', fault: str = "", **script: Any
) -> tuple[Verdict | None, FakeClient, RunDirectory]:
    executor = root / "executor.py"
    executor.write_text(EXECUTOR.replace("ENDS", ends))

    async def scenario() -> tuple[Verdict | None, FakeClient, RunDirectory]:
        import sys

        context, client = _context(server, HostRuntime((sys.executable, str(executor))))
        context = replace(context, fault=lambda claim: fault and f"{fault}, of task {claim.task}")
        claimed = _claimed(root / "runs", **script)
        async with asyncio.timeout(20):
            return await run_task(context, claimed), client, claimed.run

    return asyncio.run(scenario())


def test_packages_and_commit_are_written_back_and_what_the_user_wrote_is_kept(tmp_path: Path) -> None:
    verdict, client, run = _run(TaskServer(), tmp_path, requirements={"pip": "numpy\n"}, repository="r")
    assert verdict is not None
    assert verdict.status is TaskStatus.COMPLETED
    wanted = {"pip": "numpy==2.1\n", "org_pip": "numpy\n"}
    assert client.sent("tasks.set_requirements") == [{"task": "t1", "requirements": wanted}]
    assert client.sent("tasks.edit") == [{"task": "t1", "force": True, "script": {"version_num": "c0ffee"}}]
    assert json.loads((run.path / "claim.json").read_text())["phase"] == "reported"


def test_what_the_user_wrote_before_the_first_run_survives_the_second(tmp_path: Path) -> None:
    _, client, _ = _run(TaskServer(), tmp_path, requirements={"pip": "numpy==1.0\n", "org_pip": "numpy\n"})
    assert client.sent("tasks.set_requirements")[0]["requirements"]["org_pip"] == "numpy\n"


def test_a_commit_that_the_task_names_is_left_as_it_is(tmp_path: Path) -> None:
    _, client, _ = _run(TaskServer(), tmp_path, version_num="main-tag", repository="r")
    assert client.sent("tasks.edit") == []


def test_files_of_a_run_are_for_our_eyes_only(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        _, _, run = _run(TaskServer(), tmp_path)
    finally:
        os.umask(before)
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert (run.path / "setup.json").stat().st_mode & 0o777 == 0o600


def test_a_fault_of_the_host_is_asked_for_and_told_to_the_server(tmp_path: Path) -> None:
    verdict, client, run = _run(TaskServer(), tmp_path, ends='{"phase": "run", "signal": 6}', fault="GPU 0 was lost")
    assert verdict is not None
    assert (verdict.infrastructure, verdict.exit_code, verdict.own_code) == (True, 75, 134)
    assert [body["status_reason"] for body in client.sent("tasks.failed")] == [
        "worker execution exit code 75: infrastructure failure: GPU 0 was lost, of task t1 "
        "(the process ended with exit code -6)"
    ]
    assert json.loads((run.path / "verdict.json").read_text())["infrastructure"] is True


def test_a_task_that_ends_well_on_a_host_with_a_fault_has_ended_well(tmp_path: Path) -> None:
    verdict, _, _ = _run(TaskServer(), tmp_path, fault="GPU 0 was lost")
    assert verdict is not None
    assert verdict.status is TaskStatus.COMPLETED


def test_an_abort_between_the_wait_and_the_queue_is_not_overwritten(tmp_path: Path) -> None:
    async def scenario() -> FakeClient:
        context, client = _context(TaskServer("in_progress", "stopping"))
        again = Verdict(status=TaskStatus.QUEUED, reason="retry 1 of 3", notice="", exit_code=7, retry=1)
        await report(context, _claimed(tmp_path).claim, again)
        return client

    client = asyncio.run(scenario())
    assert [body["status_reason"] for body in client.sent("tasks.stopped")] == ["task was stopped by tasks.stop"]
    assert client.sent("tasks.enqueue") == []


def test_a_retry_that_cannot_be_counted_is_none(tmp_path: Path) -> None:
    """Else it would be repeated without an end."""

    async def scenario() -> FakeClient:
        server = TaskServer("in_progress", OURS)
        context, client = _context(server)

        def refuse(_: Any) -> dict[str, Any]:
            raise ApiError("tasks.edit", 400, 110, "invalid task status")

        client.handlers["tasks.edit"] = refuse
        again = Verdict(status=TaskStatus.QUEUED, reason="retry 1 of 3", notice="", exit_code=7, retry=1)
        await report(context, _claimed(tmp_path).claim, again)
        return client

    client = asyncio.run(scenario())
    assert client.sent("tasks.enqueue") == []
    assert [body["status_reason"] for body in client.sent("tasks.failed")] == [
        "retry 1 of 3; the retry cannot be counted"
    ]
