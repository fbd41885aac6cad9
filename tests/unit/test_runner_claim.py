"""The claim: a task's name is on our disk before it is taken, and a lost reply is resolved by looking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import FakeClient, fake_api

from agent.api.queues import Queue, Waiting
from agent.api.server import Features
from agent.errors import ApiError, ReplyLost, ServerUnreachable
from agent.runner import claim as claiming
from agent.runner.claim import Claimant, Claimed, Source, claim_task, claim_unnamed, first_waiting
from agent.runner.give_back import give_back
from agent.runner.rundir import RunDirectory, Runs
from agent.states import RunPhase

QUEUE = Queue("q1", "train")
OURS = Source(queues=(QUEUE,), features=Features(repeatable_pop=True, wait_for_task=True), api_version=(2, 34))
PLAIN = Source(queues=(QUEUE, Queue("q2", "spare")), features=Features(), api_version=(2, 31))


ME = Claimant(worker="w", agent="w")


class QueueServer:
    """One queue with one task, whose pop can lose its reply; `taken_by_other` is a competitor that was faster."""

    def __init__(self, *, lost_replies: int = 0, effect: bool = True, status: str = "queued") -> None:
        self.entries = ["t1"]
        self.status = status
        self.lost_replies = lost_replies
        self.effect = effect
        self.claims: dict[str, str] = {}

    def pop(self, body: dict[str, Any]) -> dict[str, Any]:
        lose, self.lost_replies = self.lost_replies > 0, max(0, self.lost_replies - 1)
        if lose and not self.effect:
            raise ReplyLost("timed out")
        reply: dict[str, Any] = {}
        if body["task"] in self.entries:
            self.entries.remove(body["task"])
            self.claims[body["task"]] = body.get("claim", "")
            reply = {"entry": {"task": body["task"]}}
        elif body.get("claim") and self.claims.get(body["task"]) == body["claim"]:
            reply = {"entry": {"task": body["task"]}}
        if lose:
            raise ReplyLost("timed out")
        return reply

    def handlers(self) -> dict[str, Any]:
        return {
            "queues__get_next_task": self.pop,
            "queues__get_by_id": lambda _: {"queue": {"entries": [{"task": task} for task in self.entries]}},
            "tasks__get_by_id": lambda body: {"task": {"id": body["task"], "status": self.status}},
            "tasks__get_all": lambda body: {"tasks": [{"id": body["id"][0], "status": self.status}]},
        }


def _claim(server: QueueServer, source: Source, root: Path) -> tuple[Claimed | None, FakeClient]:
    api, client = fake_api(**server.handlers())
    claimed = asyncio.run(claim_task(api, source, Runs(root), Waiting("t1", "q1"), claimant=ME))
    return claimed, client


@pytest.fixture(autouse=True)
def _others_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "OTHERS_START_SECONDS", 0.0)


def test_the_claim_is_on_the_disk_before_the_pop(tmp_path: Path) -> None:
    server = QueueServer()
    seen: list[str] = []

    def pop(body: dict[str, Any]) -> dict[str, Any]:
        seen.extend(claim.phase for _, claim in Runs(tmp_path).of_agent("w"))
        return server.pop(body)

    api, _ = fake_api(**{**server.handlers(), "queues__get_next_task": pop})
    claimed = asyncio.run(claim_task(api, OURS, Runs(tmp_path), Waiting("t1", "q1"), claimant=ME))
    assert seen == [RunPhase.CLAIMING]
    assert claimed is not None
    assert claimed.claim.phase is RunPhase.CLAIMED
    assert claimed.run.path.name == "t1.1"


@pytest.mark.parametrize("source", [OURS, PLAIN], ids=["repeatable pop", "named pop only"])
@pytest.mark.parametrize("effect", [True, False], ids=["taken", "not taken"])
def test_a_pop_whose_reply_is_lost_still_gives_the_task(tmp_path: Path, source: Source, effect: bool) -> None:
    claimed, _ = _claim(QueueServer(lost_replies=1, effect=effect), source, tmp_path)
    assert claimed is not None


@pytest.mark.parametrize("source", [OURS, PLAIN], ids=["repeatable pop", "named pop only"])
def test_a_task_that_somebody_else_took_leaves_no_trace(tmp_path: Path, source: Source) -> None:
    server = QueueServer()
    server.entries.clear()
    claimed, _ = _claim(server, source, tmp_path)
    assert claimed is None
    assert list(Runs(tmp_path)) == []


def test_a_lost_pop_of_a_task_that_runs_elsewhere_is_not_ours(tmp_path: Path) -> None:
    server = QueueServer(lost_replies=1, status="in_progress")
    server.entries.clear()
    claimed, _ = _claim(server, PLAIN, tmp_path)
    assert claimed is None


@pytest.mark.parametrize("status", ["stopped", "created", "completed", "in_progress"])
def test_a_task_that_is_no_longer_queued_is_left_alone(tmp_path: Path, status: str) -> None:
    claimed, _ = _claim(QueueServer(status=status), OURS, tmp_path)
    assert claimed is None
    assert list(Runs(tmp_path)) == []


def test_a_task_that_was_queued_again_since_it_was_popped_is_left_to_whoever_pops_it(tmp_path: Path) -> None:
    """A ClearML Server would leave it in the queue when it starts, where it would stand for good."""
    server = QueueServer()

    def pop(body: dict[str, Any]) -> dict[str, Any]:
        reply = server.pop(body)
        server.entries.append("t1")
        return reply

    api, _ = fake_api(**{**server.handlers(), "queues__get_next_task": pop})
    assert asyncio.run(claim_task(api, PLAIN, Runs(tmp_path), Waiting("t1", "q1"), claimant=ME)) is None
    assert list(Runs(tmp_path)) == []


def test_a_second_attempt_gets_its_own_directory(tmp_path: Path) -> None:
    first, _ = _claim(QueueServer(), OURS, tmp_path)
    second, _ = _claim(QueueServer(), OURS, tmp_path)
    assert first is not None
    assert second is not None
    assert [first.run.path.name, second.run.path.name] == ["t1.1", "t1.2"]


def _give_back(*, force: bool = False, **handlers: Any) -> FakeClient:
    api, client = fake_api(**handlers)
    claim = claiming.claim_for(OURS, Waiting("t1", "q1"), ME)
    run = RunDirectory(Path("/nonexistent/t1.1"))
    asyncio.run(give_back(api, OURS.features, run, claim, reason="test", force=force))
    return client


def test_a_task_whose_queue_was_deleted_is_stopped_rather_than_left_queued_nowhere() -> None:
    def enqueue(_: Any) -> dict[str, Any]:
        raise ApiError("tasks.enqueue", 400, 701, "invalid queue id")

    client = _give_back(tasks__enqueue=enqueue, tasks__stopped=lambda _: {}, queues__move_task_to_front=enqueue)
    assert client.sent("tasks.stopped")[0]["status_reason"] == "queue train is gone"


def test_a_task_that_is_back_in_its_queue_already_still_goes_to_the_front() -> None:
    """The reply to a first attempt was lost."""

    def enqueue(_: Any) -> dict[str, Any]:
        raise ApiError("tasks.enqueue", 400, 706, "already in this queue")

    client = _give_back(tasks__enqueue=enqueue, queues__move_task_to_front=lambda _: {})
    assert client.sent("queues.move_task_to_front") == [{"queue": "q1", "task": "t1"}]


def _lost(_: Any) -> dict[str, Any]:
    raise ReplyLost("timed out")


@pytest.mark.parametrize("force", [False, True], ids=["claimed", "started"])
def test_a_task_that_another_agent_runs_since_it_was_given_back_is_not_queued_again(force: bool) -> None:
    """The reply was lost, not the request: a repeat by force would have the task run twice."""
    theirs = {"id": "t1", "status": "in_progress", "status_message": "Changed by clearml-agent other"}
    client = _give_back(
        force=force,
        tasks__enqueue=_lost,
        tasks__get_all=lambda _: {"tasks": [theirs]},
        queues__get_next_task=lambda _: {},
        queues__move_task_to_front=lambda _: {},
    )
    assert len(client.sent("tasks.enqueue")) == 1


@pytest.mark.parametrize("force", [False, True], ids=["claimed", "started"])
def test_giving_back_is_tried_until_the_server_has_decided(force: bool) -> None:
    replies = [ServerUnreachable("refused"), ReplyLost("timed out")]

    def enqueue(_: Any) -> dict[str, Any]:
        if replies:
            raise replies.pop()
        return {}

    ours = {"id": "t1", "status": "in_progress", "status_message": f"Changed by clearml-agent {ME.worker}"}
    client = _give_back(
        force=force,
        tasks__enqueue=enqueue,
        tasks__get_all=lambda _: {"tasks": [ours]},
        queues__get_next_task=lambda _: {"entry": {"task": "t1"}},
        queues__move_task_to_front=lambda _: {},
    )
    assert len(client.sent("tasks.enqueue")) == 3


def test_an_abort_that_comes_while_a_task_is_given_back_is_confirmed() -> None:
    looks = [{"id": "t1", "status": "in_progress", "status_message": "stopping"}] * 2
    client = _give_back(
        force=True,
        tasks__enqueue=_lost,
        tasks__get_all=lambda _: {"tasks": looks},
        tasks__stopped=lambda _: {},
        queues__move_task_to_front=lambda _: {},
    )
    assert (len(client.sent("tasks.enqueue")), len(client.sent("tasks.stopped"))) == (1, 1)


def test_a_task_that_was_put_into_another_queue_meanwhile_is_nobodys_orphan() -> None:
    api, _ = fake_api(
        tasks__get_by_id=lambda _: {"task": {"id": "t1", "status": "queued", "execution": {"queue": "q2"}}},
        queues__get_by_id=lambda _: {"queue": {"entries": []}},
    )
    claim = claiming.claim_for(PLAIN, Waiting("t1", "q1"), ME)
    assert asyncio.run(claiming.is_orphan(api, claim)) is False


@pytest.mark.parametrize(("popped", "runs_left"), [("t1", ["t1.1"]), ("t2", ["t2.1"]), (None, [])])
def test_a_plain_pop_may_give_another_task_than_the_one_seen(
    tmp_path: Path, popped: str | None, runs_left: list[str]
) -> None:
    api, _ = fake_api(
        queues__get_next_task=lambda _: {"entry": {"task": popped}} if popped else {},
        tasks__get_by_id=lambda body: {"task": {"id": body["task"], "status": "queued"}},
        queues__get_by_id=lambda _: {"queue": {"entries": []}},
    )
    claimed = asyncio.run(claim_unnamed(api, PLAIN, Runs(tmp_path), Waiting("t1", "q1"), claimant=ME))
    assert (claimed.task.id if claimed else None) == popped
    assert [run.path.name for run in Runs(tmp_path)] == runs_left


def test_a_plain_pop_whose_reply_is_lost_leaves_its_claim_for_recovery(tmp_path: Path) -> None:
    def pop(_: Any) -> dict[str, Any]:
        raise ReplyLost("timed out")

    api, client = fake_api(queues__get_next_task=pop)
    with pytest.raises(ReplyLost):
        asyncio.run(claim_unnamed(api, PLAIN, Runs(tmp_path), Waiting("t1", "q1"), claimant=ME))
    assert len(client.calls) == 1
    assert [claim.phase for _, claim in Runs(tmp_path).of_agent("w")] == [RunPhase.CLAIMING]


def test_queues_are_asked_in_order_and_a_deleted_one_is_passed_over() -> None:
    def peek(body: dict[str, Any]) -> dict[str, Any]:
        if body["queue"] == "q1":
            raise ApiError("queues.peek_task", 400, 701, "invalid queue id")
        return {"task": "t9"}

    api, client = fake_api(queues__peek_task=peek)
    waiting = asyncio.run(first_waiting(api, PLAIN, PLAIN.ids))
    assert waiting == Waiting("t9", "q2")
    assert [body["queue"] for body in client.sent("queues.peek_task")] == ["q1", "q2"]
