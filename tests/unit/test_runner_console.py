"""The console on disk, and the events it becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runner.console import EVENT_BYTES, RANGE_BYTES, Console, Position


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def _write(console: Console, segment: int, *records: tuple[int, str, str], torn: bytes = b"") -> None:
    data = "".join(f"{at}\t{kind}\t{text}\n" for at, kind, text in records).encode() + torn
    console._path(segment).write_bytes(data)


def _events(console: Console, position: Position, after_ms: int = 0) -> list[dict[str, object]]:
    chunk = console.next_range(position, after_ms=after_ms)
    assert chunk is not None
    return console.events_of(chunk, task="t", worker="w", run="r")


def test_a_record_without_its_end_is_not_read(console: Console) -> None:
    _write(console, 1, (1000, "o", "whole"), torn=b"1000\to\thal")
    assert [text for *_, text in console.records(Position())] == ["whole"]


def test_lines_of_one_moment_share_an_event_and_others_do_not(console: Console) -> None:
    _write(console, 1, (1000, "o", "a"), (1050, "o", "b"), (1900, "o", "c"), (1901, "i", "notice"))
    events = _events(console, Position())
    assert [(event["msg"], event["level"], event["timestamp"]) for event in events] == [
        ("a\nb", "DEBUG", 1000),
        ("c", "DEBUG", 1900),
        ("notice", "INFO", 1901),
    ]


def test_timestamps_strictly_increase_even_within_a_millisecond(console: Console) -> None:
    _write(console, 1, *[(1000, "oi"[n % 2], str(n)) for n in range(10)])
    stamps = [event["timestamp"] for event in _events(console, Position(), after_ms=5000)]
    assert stamps == list(range(5001, 5011))


def test_an_event_holds_at_most_64_kib(console: Console) -> None:
    _write(console, 1, *[(1000, "o", "x" * 1000) for _ in range(200)])
    events = _events(console, Position())
    assert len(events) > 1
    assert all(len(str(event["msg"])) <= EVENT_BYTES for event in events)
    assert "\n".join(str(event["msg"]) for event in events).count("x" * 1000) == 200


def test_reading_goes_on_in_the_next_segment(console: Console) -> None:
    _write(console, 0, (1, "i", "pulled"))
    _write(console, 1, (2, "o", "first"))
    _write(console, 3, (3, "o", "after a gap"))
    assert [text for *_, text in console.records(Position())] == ["pulled", "first", "after a gap"]


def test_a_note_behind_an_empty_segment_is_still_waiting(console: Console) -> None:
    """An executor that was killed before its first record leaves segment 1 empty."""
    _write(console, 0, (1, "i", "pulled"))
    _write(console, 1)
    console.closing_note("it was killed")
    shipped = Position(0, len(b"1\ti\tpulled\n"))
    assert console.size_after(shipped) > 0
    assert [text for *_, text in console.records(shipped)] == ["it was killed"]


def test_a_segment_that_grows_while_it_is_left_for_the_next_is_read_to_its_end(tmp_path: Path) -> None:
    """The executor writes its last record into a segment, and rolls, just after we saw nothing new there."""

    class Rolling(Console):
        def _read(self, segment: int, offset: int, size: int) -> bytes:
            data = super()._read(segment, offset, size)
            if segment == 1 and not self._path(2).exists():
                _write(self, 1, (1000, "o", "first"), (1001, "o", "last of its segment"))
                _write(self, 2, (1002, "o", "next"))
            return data

    console = Rolling(tmp_path)
    _write(console, 1, (1000, "o", "first"))
    position = Position(1, len(b"1000\to\tfirst\n"))
    texts = [text for *_, text in [*console.records(position)]]
    if not texts:
        texts = [text for *_, text in console.records(position)]
    assert texts == ["last of its segment", "next"]


def test_a_record_longer_than_a_range_is_read_whole(console: Console) -> None:
    long = "x" * (RANGE_BYTES + 10)
    _write(console, 1, (1000, "o", long), (1001, "o", "after it"))
    assert [text for *_, text in console.records(Position())] == [long, "after it"]


def test_two_runs_of_a_task_never_share_an_event_id(console: Console) -> None:
    """A stopped task can be queued again without a reset; its console, and the ids the server knows, stay."""
    _write(console, 1, (1000, "o", "a"))
    chunk = console.next_range(Position(), after_ms=0)
    assert chunk is not None
    first, second = (console.events_of(chunk, task="t", worker="w", run=run) for run in ("4af1", "77c0"))
    assert first[0]["event_id"] != second[0]["event_id"]


def test_a_torn_disk_page_is_shown_rather_than_lost(console: Console) -> None:
    console._path(1).write_bytes(b"1000\to\tgood\n\x00\xff\x00garbage\n2000\to\tgood again\n")
    texts = [text for *_, text in console.records(Position())]
    assert texts[0] == "good"
    assert "garbage" in texts[1]
    assert texts[2] == "good again"


def test_the_closing_note_comes_last_and_once(console: Console) -> None:
    _write(console, 1, (1000, "o", "work"))
    console.closing_note("Process completed successfully")
    console.closing_note("Process completed successfully")
    assert [text for *_, text in console.records(Position())] == ["work", "Process completed successfully"]


def test_progress_of_shipping_survives_the_process(console: Console) -> None:
    _write(console, 1, (1000, "o", "a"))
    chunk = console.next_range(Position(), after_ms=7)
    assert chunk is not None
    console.write_shipped(Position(), 7, chunk)
    assert console.read_shipped() == (Position(), 7, chunk)
    console.write_shipped(chunk.position, 1000, None)
    assert console.read_shipped() == (chunk.position, 1000, None)


@given(
    lines=st.lists(
        st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]), max_size=30), max_size=40
    ),
    times=st.integers(0, 400),
)
def test_every_line_is_in_exactly_one_event_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], times: int
) -> None:
    console = Console(tmp_path_factory.mktemp("console"))
    _write(console, 1, *[(1000 + n * times, "o", line) for n, line in enumerate(lines)])
    chunk = console.next_range(Position(), after_ms=0)
    events = console.events_of(chunk, task="t", worker="w", run="r") if chunk else []
    assert [line for event in events for line in str(event["msg"]).split("\n")] == lines
    assert len({event["event_id"] for event in events}) == len(events)
