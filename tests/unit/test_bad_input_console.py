"""Any bytes at all that a task writes, and any that a broken disk leaves of them: every line arrives once, in order."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import JSON, examples
from support.fake_api import fake_api

from agent.api.server import Features
from agent.executor.console import Console as Segments
from agent.executor.fold import Folder
from agent.runner.console import LONGEST_STAMP, Console, Position
from agent.runner.log_stream import LogStream

LONGEST = 64

_PIECES = (
    b"a", b"line\n", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xe2\x82", b"\xac", b"\xed\xa0\x80", b"\t", b"\x0c",
    b"\x0b", b"\x1c", b"\x85", "\u2028".encode(), "\u0085".encode(), b"\x1b[2K\x1b[1A", b"123\to\tfake\n",
    b"99999999999999999999\to\tx\n", b"x" * 100, "ä€😀".encode(), b"\r" * 50, b"\xef\xbb\xbf", b'"\\', b"\x7f",
)  # fmt: skip
WRITTEN = st.binary(max_size=300) | st.lists(st.sampled_from(_PIECES), max_size=40).map(b"".join)


def _through_the_executor(folder: Path, data: bytes, places: list[int], *, segment_bytes: int) -> None:
    segments = Segments(str(folder), segment_bytes=segment_bytes)
    reading = Folder(longest=LONGEST)
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    for start, end in pairwise(edges):
        segments.output(reading.feed(data[start:end], 0.0))
    segments.output(reading.close())
    segments.close()


def _ship(folder: Path, *, log_ids: bool = True) -> list[dict[str, Any]]:
    """What a server gets of a console, as it would have read it from the wire."""
    sent: list[dict[str, Any]] = []

    def add(body: list[dict[str, Any]]) -> dict[str, Any]:
        sent.extend(json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8")))
        return {"added": len(body)}

    api, _ = fake_api(events__add_batch=add, events__get_task_log=lambda _: {"events": sent and []})

    async def scenario() -> None:
        stream = LogStream(Console(folder), api, Features(log_ids=log_ids), task="t", worker="w", run="r")
        stream.finish()
        await asyncio.wait_for(stream.run(), 20)

    asyncio.run(scenario())
    return sent


def _lines(events: list[dict[str, Any]]) -> list[str]:
    return [line for event in events for line in event["msg"].split("\n")]


@examples(150)
@given(data=WRITTEN, places=st.lists(st.integers(0, 400), max_size=8), segment_bytes=st.sampled_from([1, 100, 10**6]))
def test_any_bytes_arrive_as_lines_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, places: list[int], segment_bytes: int
) -> None:
    """What arrives is what the folding of the whole says, whatever cut the bytes on their way."""
    folder = tmp_path_factory.mktemp("console")
    _through_the_executor(folder, data, places, segment_bytes=segment_bytes)
    whole = Folder(longest=LONGEST)
    expected = whole.feed(data, 0.0) + whole.close()
    events = _ship(folder)
    assert _lines(events) == expected
    assert len({event["event_id"] for event in events}) == len(events)
    stamps = [event["timestamp"] for event in events]
    assert stamps == sorted(set(stamps))
    assert _ship(folder) == []


@examples(100)
@given(data=WRITTEN.map(lambda data: data.replace(b"\r", b"")))
def test_bytes_without_returns_arrive_as_they_decode(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("console")
    segments, reading = Segments(str(folder)), Folder()
    segments.output(reading.feed(data, 0.0) + reading.close())
    segments.close()
    assert "\n".join(_lines(_ship(folder))) == data.decode("utf-8", "replace").removesuffix("\n")


@examples(100)
@given(torn=st.binary(max_size=200) | WRITTEN, name=st.sampled_from(["000001.log", "000002.log", "000000.log"]))
def test_a_torn_segment_loses_no_line_of_the_others(
    tmp_path_factory: pytest.TempPathFactory, torn: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("console")
    (folder / name).write_bytes(torn)
    (folder / "000003.log").write_bytes(b"1000\to\tlast\n")
    for odd in ("x.log", "²²²²²².log", "999999999999999999.log", "000004.log.tmp"):
        (folder / odd).write_bytes(b"x\n")
    events = _ship(folder)
    assert _lines(events)[-1] == "last"
    assert events[-1]["timestamp"] < 10 ** (LONGEST_STAMP + 1)
    assert _ship(folder) == []


@examples(100)
@given(
    content=st.binary(max_size=30)
    | JSON.map(lambda value: json.dumps(value, default=str).encode("utf-8", "surrogatepass"))
    | st.fixed_dictionaries(
        {},
        optional={
            name: st.integers(-5, 50) | JSON
            for name in ("segment", "offset", "last_ms")
        }
        | {"sending": st.fixed_dictionaries({}, optional={
            name: st.integers(-5, 50) | JSON for name in ("segment", "start", "end", "after_ms")})},
    ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
)  # fmt: skip
def test_any_note_on_how_far_was_shipped_comes_to_an_end(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("console")
    (folder / "000001.log").write_bytes(b"1000\to\tone\n1001\to\ttwo\n")
    (folder / "shipped.json").write_bytes(content)
    for event in _ship(folder):
        assert event["msg"]
    assert _ship(folder) == []


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"[" * 100000, b'{"segment": "x"}'])
def test_a_note_that_is_torn_costs_no_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "000001.log").write_bytes(b"1000\to\tone\n1001\to\ttwo\n")
    (tmp_path / "shipped.json").write_bytes(content)
    assert _lines(_ship(tmp_path)) == ["one", "two"]


def test_a_range_that_was_noted_and_is_none_of_whole_records_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "000001.log").write_bytes(b"1000\to\tone\n1001\to\ttwo\n")
    sending = {"segment": 1, "start": 0, "end": 7, "after_ms": 0}
    (tmp_path / "shipped.json").write_text(json.dumps({"segment": 0, "offset": 0, "last_ms": 0, "sending": sending}))
    assert _lines(_ship(tmp_path)) == ["one", "two"]


def test_notices_of_any_text_are_lines(tmp_path: Path) -> None:
    console = Console(tmp_path)
    for text in ("", "\n", "\ud800", "a\u2028b", "x\r\ny", "\0"):
        console.note(text)
        console.closing_note(text)
    for _, _, kind, text in console.records(Position()):
        assert kind == "i"
        assert "\n" not in text
