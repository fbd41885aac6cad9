"""Queues by name, and whose turn it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import fake_api

from agent.api.queues import Queue, Waiting
from agent.api.server import Features
from agent.errors import ApiError, UnknownQueue
from agent.runner.claim import Source
from agent.runner.rundir import Runs
from agent.worker.poller import Poller, resolve_queues

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


def test_priority_asks_the_first_queue_first_every_time(tmp_path: Path) -> None:
    assert _turns(False, tmp_path) == ["a", "a", "a", "a"]


def test_fairness_goes_round(tmp_path: Path) -> None:
    assert _turns(True, tmp_path) == ["a", "b", "a", "b"]
