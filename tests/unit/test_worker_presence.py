"""The heartbeat goes on whatever the sensors and the server do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_api import FakeClient, fake_api

from agent.errors import CredentialsRefused
from agent.models import Json
from agent.worker import presence as module
from agent.worker.presence import Presence


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_REPORT_SECONDS", 0.0)
    monkeypatch.setattr(module, "SHORTEST_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(module, "READINGS_SECONDS", 0.05)


def _reports(sample: Callable[[], Json], *, count: int, answer: Callable[[Any], Json] = lambda _: {}) -> list[Json]:
    class Sampler:
        def __init__(self) -> None:
            self.sample = sample

    async def scenario() -> FakeClient:
        api, client = fake_api(workers__status_report=answer)
        presence = Presence(api, worker="w", queues=(), tags=(), sampler=Sampler(), interval_seconds=0)  # type: ignore[arg-type]
        reporting = asyncio.create_task(presence.run())
        async with asyncio.timeout(5):
            while len(client.sent("workers.status_report")) < count and not reporting.done():
                await asyncio.sleep(0.005)
        reporting.cancel()
        return client

    return list(asyncio.run(scenario()).sent("workers.status_report"))


def test_a_sensor_that_fails_costs_its_readings_and_not_the_report() -> None:
    def sample() -> Json:
        raise RuntimeError("no such sensor")

    assert [report["machine_stats"] for report in _reports(sample, count=3)] == [None] * 3


def test_a_disk_that_hangs_holds_one_thread_and_no_report() -> None:
    release, calls = threading.Event(), []

    def sample() -> Json:
        calls.append(1)
        release.wait(5)
        return {}

    try:
        threading.Timer(0.5, release.set).start()
        reports = _reports(sample, count=3)
    finally:
        release.set()
    assert [report["machine_stats"] for report in reports[:3]] == [None] * 3
    assert len(calls) == 1


def test_a_server_that_knows_nobody_for_a_while_is_told_again() -> None:
    def refuse(_: Any) -> Json:
        raise CredentialsRefused("who are you?")

    assert len(_reports(lambda: {"cpu_usage": [1.0]}, count=3, answer=refuse)) >= 3
