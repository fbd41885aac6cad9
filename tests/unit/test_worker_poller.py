"""Queues by name, whether they may be pulled from, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_api import fake_api

from agent.api.queues import Queue, Waiting
from agent.api.server import Features, features_of
from agent.errors import ApiError, ServerUnreachable, UnknownQueue
from agent.runner.claim import Claimant, Source
from agent.runner.rundir import Runs
from agent.schedule import read_schedule
from agent.worker import listening as listening_module
from agent.worker import poller as poller_module
from agent.worker.gate import Gate
from agent.worker.listening import Listening, resolve_queues
from agent.worker.poller import Outage, Poller
from agent.worker.turn import Turn

QUEUES = [{"id": f"{n:032x}", "name": name} for n, name in enumerate(["default", "Train", "services"])]


def _resolve(*wanted: str, create: bool = False, default: str | None = None) -> list[str]:
    def get_default(_: Any) -> dict[str, Any]:
        if default is None:
            raise ApiError("queues.get_default", 400, 707, "no default queue")
        return {"id": default}

    api, _ = fake_api(
        queues__get_all=lambda body: {"queues": [q for q in QUEUES if q["id"] in body.get("id", [q["id"]])]},
        queues__get_default=get_default,
        queues__create=lambda body: {"id": "f" * 32},
    )
    return [queue.name for queue in asyncio.run(resolve_queues(api, wanted, create=create))]


def test_names_are_found_in_any_letter_case_and_keep_their_order() -> None:
    assert _resolve("services", "train") == ["services", "Train"]


def test_an_id_is_taken_as_an_id() -> None:
    assert _resolve(f"{1:032x}") == ["Train"]


def test_a_queue_named_twice_is_listened_to_once() -> None:
    assert _resolve("default", "DEFAULT") == ["default"]


def test_a_misspelt_queue_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownQueue, match="'trian'") as caught:
        _resolve("trian")
    assert "'Train'" in caught.value.hint
    assert caught.value.exit_code == 6


def test_create_queue_makes_what_is_missing() -> None:
    assert _resolve("brand-new", create=True) == ["brand-new"]


def test_without_names_the_default_queue_of_the_server_is_taken() -> None:
    assert _resolve(default=f"{2:032x}") == ["services"]
    assert _resolve() == ["default"]


OURS = Features(wait_for_task=True, repeatable_pop=True, watch=True)
QUEUES_AB = (Queue("a", "alpha"), Queue("b", "beta"))


class Bench:
    """A poller on a fake server that has two queues; `steering` is what the server says of them, `mark` its name."""

    def __init__(self, root: Path, *, features: Features = OURS, fair: bool = False, schedule: Any = None) -> None:
        self.clock = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()  # a Wednesday
        self.mark = "m1"
        self.queues = [{"id": "a", "name": "alpha", "tags": []}, {"id": "b", "name": "beta", "tags": []}]
        self.properties: list[dict[str, Any]] = []
        self.waiting: dict[str, str] = {}
        self.has_properties = True
        api, self.client = fake_api(
            queues__get_next_task=self._next,
            queues__get_all=lambda body: {"queues": [q for q in self.queues if q["id"] in body.get("id", [q["id"]])]},
            queues__peek_task=lambda body: {"task": self.waiting.get(body["queue"])},
            workers__get_runtime_properties=self._get_properties,
            tasks__get_by_id=lambda body: {"task": {"id": body["task"], "status": "queued"}},
        )
        source = Source(queues=QUEUES_AB, features=features, api_version=(2, 34))
        self.moved: list[tuple[str, ...]] = []
        self.listening = Listening(api, source, worker="w", on_change=self.moved.append)
        self.gate = Gate(schedule, clock=lambda: self.clock)
        turn = Turn(root / "w.round" if fair else None)
        self.poller = Poller(
            api, self.listening, self.gate, turn, Runs(root / "runs"), worker="w", polling_interval_seconds=0.0
        )

    def _get_properties(self, body: Any) -> dict[str, Any]:
        if not self.has_properties:
            raise ApiError("workers.get_runtime_properties", 404, 0, "no such endpoint")
        return {"runtime_properties": self.properties}

    def _next(self, body: dict[str, Any]) -> dict[str, Any]:
        if "task" in body:  # the pop
            return {"entry": {"task": body["task"]}} if self.waiting.pop(body["queue"], None) else {}
        steering = {"mark": self.mark, "queues": self.queues, "properties": self.properties}
        reply: dict[str, Any] = {"steering": steering}
        if body["watch"]["known"] == self.mark:
            found = next((queue for queue in body["queues"] if queue in self.waiting), None)
            reply |= {"entry": {"task": self.waiting[found]}, "queue": found} if found else {}
        return reply

    def round(self) -> Waiting | None:
        """What is found once the server has told what there is to tell; one more round finds nothing new."""

        async def twice() -> Waiting | None:
            return await self.poller.next_waiting() or await self.poller.next_waiting()

        return asyncio.run(twice())

    def claim(self, waiting: Waiting) -> bool:
        async def claim() -> bool:
            return await self.poller.claim(waiting, Claimant(worker="w", agent="w")) is not None

        return asyncio.run(claim())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "SHORTEST_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(poller_module, "SHORTEST_INTERVAL_SECONDS", 0.0)


BOTH = pytest.mark.parametrize("features", [OURS, Features()], ids=["ours", "plain"])


@BOTH
def test_the_first_queue_that_has_a_task_gives_it(tmp_path: Path, features: Features) -> None:
    bench = Bench(tmp_path, features=features)
    bench.waiting = {"b": "t2"}
    assert bench.round() == Waiting("t2", "b")
    bench.waiting = {"a": "t1", "b": "t2"}
    assert bench.round() == Waiting("t1", "a")


@BOTH
def test_a_queue_that_says_off_is_not_pulled_from_and_one_that_says_on_beats_everything(
    tmp_path: Path, features: Features
) -> None:
    bench = Bench(
        tmp_path, features=features, schedule=read_schedule(uptime=["20-23 SUN"], downtime=[], timezone="UTC")
    )
    bench.waiting = {"a": "t1", "b": "t2"}
    assert bench.round() is None  # out of hours
    bench.queues[1]["tags"], bench.mark = ["force_workers:on"], "m2"
    assert bench.round() == Waiting("t2", "b")
    bench.properties, bench.mark = [{"key": "force", "value": "on"}], "m3"
    assert bench.round() == Waiting("t1", "a")
    bench.queues[0]["tags"], bench.mark = ["force_workers:off"], "m4"
    assert bench.round() == Waiting("t2", "b")


@BOTH
def test_a_force_ends_with_its_expiry(tmp_path: Path, features: Features) -> None:
    bench = Bench(tmp_path, features=features)
    bench.waiting = {"a": "t1"}
    bench.properties = [{"key": "force", "value": "off", "expiry": 60}]
    assert bench.round() is None
    assert bench.gate.seconds_to_change() == pytest.approx(60)
    bench.clock += 61
    bench.properties, bench.mark = [], "m2"
    assert bench.round() == Waiting("t1", "a")


@BOTH
def test_a_deleted_queue_is_left_out_and_its_successor_of_the_same_name_is_found(
    tmp_path: Path, features: Features, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening_module, "LOOK_FOR_LOST_SECONDS", 0.0)
    bench = Bench(tmp_path, features=features)
    bench.waiting = {"b": "t2"}
    gone = {"id": "a", "name": "", "tags": ["force_workers:off"], "gone": True}
    bench.queues, bench.mark = [gone if features.watch else {"id": "x", "name": "other"}, bench.queues[1]], "m2"
    assert bench.round() == Waiting("t2", "b")
    assert "queue alpha has been deleted" in caplog.text
    bench.queues, bench.mark = [{"id": "c", "name": "alpha", "tags": []}, bench.queues[1]], "m3"
    bench.waiting = {"c": "t3", "b": "t2"}
    assert bench.round() == Waiting("t3", "c")
    assert bench.moved == [("c", "b")]


@BOTH
def test_a_renamed_queue_is_listened_to_under_its_new_name(
    tmp_path: Path, features: Features, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, features=features)
    bench.queues[0]["name"], bench.mark = "omega", "m2"
    bench.waiting = {"a": "t1"}
    with caplog.at_level("INFO"):
        assert bench.round() == Waiting("t1", "a")
    assert [queue.name for queue in bench.listening.queues] == ["omega", "beta"]
    assert "queue alpha is now called omega" in caplog.text


def test_a_server_without_runtime_properties_is_asked_once_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, features=Features())
    bench.has_properties = False
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert bench.round() is None
    assert len(bench.client.sent("workers.get_runtime_properties")) == 1
    assert caplog.text.count("no runtime properties") == 1


def test_on_our_server_one_request_asks_and_hears_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.round()
    assert {endpoint for endpoint, _ in bench.client.calls} == {"queues.get_next_task"}
    body = bench.client.calls[-1][1]
    assert body == {
        "queues": ["a", "b"],
        "wait": poller_module.HOLD_SECONDS,
        "peek": True,
        "watch": {"worker": "w", "queues": ["a", "b"], "known": "m1"},
    }


def test_the_server_holds_a_request_no_longer_than_until_the_hours_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path, schedule=read_schedule(uptime=["08-13 WED"], downtime=[], timezone="UTC"))
    bench.clock += 3600 - 7
    bench.round()
    assert bench.client.calls[-1][1]["wait"] == pytest.approx(7, abs=0.1)
    bench.clock += 8
    bench.waiting = {"a": "t1"}
    assert bench.round() is None


def test_a_server_that_does_not_hold_the_request_is_not_asked_in_a_frenzy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "SHORTEST_ROUND_SECONDS", 1.0)
    bench = Bench(tmp_path)

    async def rounds() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await bench.poller.next_waiting()

    asyncio.run(rounds())
    assert len(bench.client.calls) == 2  # the first one was told something new


def _turns(root: Path, *, fair: bool, restart: bool = False) -> list[str]:
    """Two queues that never run dry: which one gives the next task?"""
    turns = []
    bench = Bench(root, fair=fair)
    for number in range(4):
        bench = Bench(root, fair=fair) if restart else bench
        bench.waiting = {"a": f"a{number}", "b": f"b{number}"}
        waiting = bench.round()
        assert waiting is not None
        assert bench.claim(waiting)
        turns.append(waiting.queue)
    return turns


def test_priority_asks_the_first_queue_first_every_time(tmp_path: Path) -> None:
    assert _turns(tmp_path, fair=False) == ["a", "a", "a", "a"]


def test_fairness_goes_round(tmp_path: Path) -> None:
    assert _turns(tmp_path, fair=True) == ["a", "b", "a", "b"]


def test_fairness_holds_its_place_when_the_agent_is_restarted_for_every_task(tmp_path: Path) -> None:
    assert _turns(tmp_path, fair=True, restart=True) == ["a", "b", "a", "b"]


def test_a_task_that_somebody_else_took_first_does_not_end_a_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, fair=True)
    bench.waiting = {"a": "t1", "b": "t2"}
    waiting = bench.round()
    assert waiting == Waiting("t1", "a")
    del bench.waiting["a"]
    assert not bench.claim(waiting)
    bench.waiting["a"] = "t3"
    assert bench.round() == Waiting("t3", "a")


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sets(st.integers(0, 4)), st.booleans()), min_size=1, max_size=60),
)
def test_no_queue_starves_whatever_arrives_and_however_often_the_agent_is_restarted(
    count: int, steps: list[tuple[set[int], bool]]
) -> None:
    """A queue in which something waits is passed over at most once by each of the others."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "round")
        names = [f"q{number}" for number in range(count)]
        turn, waiting, passed = Turn(file), dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        for arrivals, is_restarted in steps:
            for number in arrivals:
                waiting[names[number % count]] += 1
            turn = Turn(file) if is_restarted else turn
            served = next((name for name in turn.order(names) if waiting[name]), None)
            if served is None:
                continue
            waiting[served] -= 1
            passed[served] = 0
            turn.gave(served, names)
            for name in names:
                passed[name] += bool(waiting[name]) and name != served
                assert passed[name] < count


def test_a_queue_that_joins_or_leaves_costs_the_others_nothing_of_their_turn(tmp_path: Path) -> None:
    turn = Turn(tmp_path / "round")
    turn.gave("a", ["a", "b", "c"])
    assert turn.order(["a", "b", "c"]) == ["b", "c", "a"]
    assert turn.order(["a", "c"]) == ["c", "a"]
    assert turn.order(["a", "b", "c", "d"]) == ["b", "c", "a", "d"]


def test_a_round_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "round").write_text('{"round": 7}')
    assert Turn(tmp_path / "round").order(["a", "b"]) == ["a", "b"]


def test_an_outage_is_said_once_and_over_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next outage would go unmentioned, and begin with the longest pause."""
    monkeypatch.setattr(poller_module, "FIRST_PAUSE_SECONDS", 0.001)
    outage = Outage()
    with caplog.at_level("INFO"):
        for _ in range(3):
            asyncio.run(outage.wait(ServerUnreachable("away")))
        outage.over()
        outage.over()
    assert caplog.text.count("waiting for the server") == 1
    assert caplog.text.count("work goes on") == 1
    assert not outage.is_on


def test_a_server_in_trouble_is_not_taken_for_one_without_extensions() -> None:
    def info(_: Any) -> dict[str, Any]:
        raise faults.pop()

    faults: list[Exception] = [ApiError("server.info", 502, 0, "bad gateway")]
    api, _ = fake_api(server__info=info)
    with pytest.raises(ApiError):
        asyncio.run(features_of(api, give_up_after=0.0))
    faults.append(ApiError("server.info", 404, 0, "no such endpoint"))
    assert asyncio.run(features_of(api)) == Features()
