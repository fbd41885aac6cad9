"""Queues by name, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fake_api import fake_api

from agent.api.queues import Queue, Waiting
from agent.api.server import Features, features_of
from agent.errors import ApiError, UnknownQueue
from agent.runner.claim import Source
from agent.runner.rundir import Runs
from agent.worker import poller as poller_module
from agent.worker.poller import Outage, Poller, resolve_queues
from agent.worker.signals import Stop
from agent.worker.worker import _next_task

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


def _turns(fair: bool, tmp_path: Path) -> list[str]:
    """Two queues that never run dry: which one gives the next task?"""
    queues = (Queue("a", "a"), Queue("b", "b"))
    source = Source(queues=queues, features=Features(wait_for_task=True, repeatable_pop=True), api_version=(2, 34))

    def next_task(body: dict[str, Any]) -> dict[str, Any]:
        if body.get("peek"):
            return {"entry": {"task": "t"}, "queue": body["queues"][0]}
        return {}

    api, _ = fake_api(queues__get_next_task=next_task)
    poller = Poller(api, source, Runs(tmp_path), worker="w", polling_interval_seconds=5, order_fairness=fair)

    async def four() -> list[str]:
        turns = []
        for _ in range(4):
            waiting = await poller.next_waiting()
            assert waiting == Waiting("t", waiting.queue if waiting else "")
            turns.append(waiting.queue)
            await poller.claim(waiting)
        return turns

    return asyncio.run(four())


def test_a_server_that_does_not_hold_the_request_is_not_asked_in_a_frenzy(tmp_path: Path) -> None:
    source = Source(
        queues=(Queue("a", "a"),), features=Features(wait_for_task=True, repeatable_pop=True), api_version=(2, 34)
    )
    api, client = fake_api(queues__get_next_task=lambda _: {})
    poller = Poller(api, source, Runs(tmp_path), worker="w", polling_interval_seconds=5, order_fairness=False)

    async def two() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await poller.next_waiting()

    asyncio.run(two())
    assert len(client.calls) == 1


def test_priority_asks_the_first_queue_first_every_time(tmp_path: Path) -> None:
    assert _turns(False, tmp_path) == ["a", "a", "a", "a"]


def test_fairness_goes_round(tmp_path: Path) -> None:
    assert _turns(True, tmp_path) == ["a", "b", "a", "b"]


def test_an_outage_is_over_as_soon_as_the_server_answers_with_or_without_a_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next outage would go unmentioned, and begin with the longest pause."""
    monkeypatch.setattr(poller_module, "FIRST_PAUSE_SECONDS", 0.0)
    source = Source(queues=(Queue("a", "a"),), features=Features(), api_version=(2, 34))
    poller = Poller(
        fake_api(queues__peek_task=lambda _: {})[0],
        source,
        Runs(tmp_path),
        worker="w",
        polling_interval_seconds=0,
        order_fairness=False,
    )

    async def scenario() -> None:
        outage = Outage()
        outage._pause = 30.0
        context = SimpleNamespace(may_leave=asyncio.Event())
        await _next_task(SimpleNamespace(stop=Stop()), context, poller, outage)  # type: ignore[arg-type]
        assert outage._pause == 0.0

    with caplog.at_level("INFO"):
        asyncio.run(scenario())
    assert "work goes on" in caplog.text


def test_a_server_in_trouble_is_not_taken_for_one_without_extensions() -> None:
    def info(_: Any) -> dict[str, Any]:
        raise faults.pop()

    faults: list[Exception] = [ApiError("server.info", 502, 0, "bad gateway")]
    api, _ = fake_api(server__info=info)
    with pytest.raises(ApiError):
        asyncio.run(features_of(api, give_up_after=0.0))
    faults.append(ApiError("server.info", 404, 0, "no such endpoint"))
    assert asyncio.run(features_of(api)) == Features()
