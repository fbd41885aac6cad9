"""Shipping the console: every line once and in order, whatever the server does."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import fake_api

from agent.api.server import Features
from agent.errors import ApiError, CredentialsRefused, ReplyLost, ServerUnreachable
from agent.runner import log_stream
from agent.runner.console import Console
from agent.runner.log_stream import LogStream


class LogServer:
    """Stores events as the server does: by id where it knows ids, else every time. `faults` are raised in turn."""

    def __init__(self, *, knows_ids: bool, faults: list[tuple[str, Exception]] | None = None) -> None:
        self.knows_ids = knows_ids
        self.faults = list(faults or [])
        self.events: list[dict[str, Any]] = []
        self.ids: set[str] = set()

    def add_batch(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        when, fault = self.faults.pop(0) if self.faults else ("", None)
        if when == "before" and fault is not None:
            raise fault
        for event in batch:
            if self.knows_ids and event["event_id"] in self.ids:
                continue
            self.ids.add(event.get("event_id", ""))
            self.events.append(event)
        if fault is not None:
            raise fault
        return {"added": len(batch)}

    def log_after(self, body: dict[str, Any]) -> dict[str, Any]:
        later = [event for event in self.events if event["timestamp"] > body["from_timestamp"]]
        return {"events": later[: body["batch_size"]]}

    @property
    def lines(self) -> list[str]:
        return [line for event in self.events for line in event["msg"].split("\n")]


def _fill(directory: Path, count: int, *, segment: int = 1, apart_ms: int = 150) -> list[str]:
    lines = [f"line {n}" for n in range(count)]
    text = "".join(f"{1000 + n * apart_ms}\to\t{line}\n" for n, line in enumerate(lines))
    (directory / f"{segment:06d}.log").write_text(text)
    return lines


def _ship(directory: Path, server: LogServer) -> None:
    api, _ = fake_api(events__add_batch=server.add_batch, events__get_task_log=server.log_after)
    stream = LogStream(Console(directory), api, Features(log_ids=server.knows_ids), task="t", worker="w", run="r")
    stream.finish()
    asyncio.run(stream.run())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(log_stream, "LONGEST_PAUSE_SECONDS", 0.0)


FAULTS = [
    ("before", ServerUnreachable("refused")),
    ("before", ApiError("events.add_batch", 500, 0, "error")),
    ("after", ReplyLost("timed out")),
    ("after", ApiError("events.add_batch", 502, 0, "bad gateway")),
]


@pytest.mark.parametrize("knows_ids", [True, False])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]}-{type(fault[1]).__name__}")
def test_no_line_is_lost_or_doubled_when_a_request_fails(
    tmp_path: Path, knows_ids: bool, fault: tuple[str, Exception]
) -> None:
    lines = _fill(tmp_path, 1200)
    server = LogServer(knows_ids=knows_ids, faults=[fault] * 3)
    _ship(tmp_path, server)
    assert server.lines == lines


@pytest.mark.parametrize("knows_ids", [True, False])
def test_a_new_process_repeats_exactly_what_the_old_one_was_sending(tmp_path: Path, knows_ids: bool) -> None:
    """The old process dies after the server stored the batch and before it heard so; meanwhile more output came."""
    _fill(tmp_path, 100)
    server = LogServer(knows_ids=knows_ids, faults=[("after", RuntimeError("the process dies here"))])
    with pytest.raises(RuntimeError, match="dies here"):
        _ship(tmp_path, server)
    assert len(server.lines) == 100
    lines = _fill(tmp_path, 150)
    _ship(tmp_path, server)
    assert server.lines == lines


def test_a_server_that_refuses_a_task_for_good_does_not_hold_up_its_end(tmp_path: Path) -> None:
    _fill(tmp_path, 10)
    refusal = ApiError("events.add_batch", 400, 131, "Events not added")
    server = LogServer(knows_ids=True, faults=[("before", refusal)])
    _ship(tmp_path, server)
    assert server.lines == []


def test_a_full_disk_delays_shipping_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _fill(tmp_path, 20)
    failures = [OSError(errno.ENOSPC, "No space left on device")] * 3

    def write_shipped(console: Console, *args: Any) -> None:
        if failures:
            raise failures.pop()
        written(console, *args)

    written = Console.write_shipped
    monkeypatch.setattr(Console, "write_shipped", write_shipped)
    server = LogServer(knows_ids=True)
    _ship(tmp_path, server)
    assert server.lines == lines


def test_credentials_that_are_refused_for_a_while_hold_the_console_back_only_so_long(tmp_path: Path) -> None:
    """A server that is being restored knows nobody; the task runs on meanwhile."""
    server = LogServer(knows_ids=True, faults=[("before", CredentialsRefused("who are you?"))] * 3)
    api, _ = fake_api(events__add_batch=server.add_batch)

    async def scenario() -> None:
        stream = LogStream(Console(tmp_path), api, Features(log_ids=True), task="t", worker="w", run="r")
        running = asyncio.create_task(stream.run())
        async with asyncio.timeout(5):
            while not server.events and not running.done():
                await asyncio.sleep(0.01)
        stream.finish()
        await running

    lines = _fill(tmp_path, 3)
    asyncio.run(scenario())
    assert server.lines == lines


def test_credentials_that_are_refused_at_the_end_are_an_error_not_a_wait(tmp_path: Path) -> None:
    _fill(tmp_path, 3)
    server = LogServer(knows_ids=True, faults=[("before", CredentialsRefused("who are you?"))] * 100)
    with pytest.raises(CredentialsRefused):
        _ship(tmp_path, server)


def test_output_that_comes_while_waiting_is_shipped(tmp_path: Path) -> None:
    server = LogServer(knows_ids=True)
    api, client = fake_api(events__add_batch=server.add_batch)

    async def scenario() -> list[str]:
        stream = LogStream(Console(tmp_path), api, Features(log_ids=True), task="t", worker="w", run="r")
        running = asyncio.create_task(stream.run())
        lines = _fill(tmp_path, 3)
        async with asyncio.timeout(5):
            while not client.sent("events.add_batch"):
                await asyncio.sleep(0.01)
        more = _fill(tmp_path, 2, segment=2)
        stream.finish()
        await running
        return lines + more

    assert asyncio.run(scenario()) == server.lines
