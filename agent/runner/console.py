"""The console of a run on disk, and the events it becomes.

Segments `console/000000.log`, `000001.log`, ... hold one record a line: `<epoch ms>\\t<kind>\\t<text>`. Kind `o` is
output of the task, `i`, `w` and `e` are notices of ours. Segment 0 is written by the runner before the executor exists,
the others by the executor. Only whole lines are ever read, so a reader never sees half a record.

Everything here is a pure function of the bytes in a range of a segment: the same range always becomes the same events,
with the same ids and timestamps, whoever sends it and however often.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.api.events import log_event
from agent.files import read_json, write_json
from agent.models import Json
from agent.wire import mapping, whole

EVENT_BYTES = 64 * 1024
RANGE_BYTES = 1024 * 1024
#: Lines read within this time of each other may share an event and so a timestamp.
SAME_MOMENT_MS = 100
#: Digits of a time of ours; more are a torn page, and would put everything after it into the far future.
LONGEST_STAMP = 14
LEVELS = {"o": "DEBUG", "i": "INFO", "w": "WARNING", "e": "ERROR"}

_SEGMENT = re.compile(r"[0-9]{6,9}\.log")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two records: segment number and byte offset in it."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Whole records of one segment, `start` to `end` (exclusive), in bytes. `after_ms`: timestamp of the event
    before.
    """

    segment: int
    start: int
    end: int
    after_ms: int

    @property
    def position(self) -> Position:
        return Position(self.segment, self.end)


class Console:
    """Reads the segments of one run and remembers how far they were shipped."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, text: str, *, kind: str = "i") -> None:
        """Append notices to segment 0; only before the executor has started."""
        self._append(0, text, kind)

    def closing_note(self, text: str, *, kind: str = "i") -> None:
        """Append notices behind everything else, once; only after the executor has ended."""
        last = self.last_segment()
        ending = _record(0, kind, (text.splitlines() or [""])[-1]).partition(b"\t")[2]
        if last and self._read(last, 0, RANGE_BYTES).endswith(ending):
            return
        self._append(last + 1, text, kind)

    def _append(self, segment: int, text: str, kind: str) -> None:
        now = int(time.time() * 1000)
        records = b"".join(_record(now, kind, line) for line in text.splitlines())
        with open(self._path(segment), "ab", buffering=0) as file:
            before = file.tell()
            try:
                written = file.write(records)
            except OSError:
                written = 0
            if written != len(records):  # no space left: a part of a record would spoil the next one
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    def last_segment(self) -> int:
        try:
            numbers = [int(name[:-4]) for name in os.listdir(self._directory) if _SEGMENT.fullmatch(name)]
        except FileNotFoundError:  # the run has been removed
            return 0
        return max(numbers, default=0)

    def next_range(self, position: Position, *, after_ms: int) -> Range | None:
        """The next records after `position`, at most about 1 MiB of them; None if there are none yet.

        A segment is left only if the one after it was there before we found nothing new in it: the executor appends to
        a segment until it begins the next.
        """
        last = self.last_segment()
        segment, offset = position.segment, position.offset
        while True:
            end = self._end_of_records(segment, offset)
            if end > offset:
                return Range(segment=segment, start=offset, end=end, after_ms=after_ms)
            if segment >= last:
                return None
            segment, offset = segment + 1, 0

    def _end_of_records(self, segment: int, offset: int) -> int:
        size = RANGE_BYTES
        while True:
            data = self._read(segment, offset, size)
            cut = data.rfind(b"\n") + 1
            if cut or len(data) < size:
                return offset + cut
            size *= 2  # one record longer than that

    def _read(self, segment: int, offset: int, size: int) -> bytes:
        try:
            with open(self._path(segment), "rb") as file:
                file.seek(offset)
                return file.read(size)
        except (FileNotFoundError, IsADirectoryError):
            return b""

    def size_after(self, position: Position) -> int:
        """Bytes waiting after `position` in the first segment that has any, cheaply (for deciding whether to look)."""
        here = self._size(position.segment) or 0
        segment, waiting = position.segment, here - position.offset
        while waiting <= 0:
            segment += 1
            size = self._size(segment)
            if size is None:
                return 0
            waiting = size
        return waiting

    def unshipped_bytes(self) -> int:
        """How much of the console the server has not acknowledged yet."""
        position, _, _ = self.read_shipped()
        sizes = (self._size(segment) or 0 for segment in range(position.segment, self.last_segment() + 1))
        return max(0, sum(sizes) - position.offset)

    def _size(self, segment: int) -> int | None:
        try:
            return os.stat(self._path(segment)).st_size
        except FileNotFoundError:
            return None

    def events_of(self, chunk: Range, *, task: str, worker: str, run: str) -> list[Json]:
        """The console events of a range: records close in time and of one level share an event of at most 64 KiB.

        Event timestamps are the time of their first record, made strictly increasing so that a server which sorts
        by time keeps the order. Ids name the run and the place, so a repeat can be told from news, also from those of
        an earlier run of the same task.
        """
        events: list[Json] = []
        previous = chunk.after_ms
        data = self._read(chunk.segment, chunk.start, chunk.end - chunk.start)
        for group in _groups(data, chunk.start):
            previous = max(group.at_ms, previous + 1)
            events.append(
                log_event(
                    task,
                    worker,
                    level=LEVELS.get(group.kind, "INFO"),
                    message="\n".join(group.lines),
                    timestamp_ms=previous,
                    event_id=f"{run}.{chunk.segment}.{group.offset}",
                )
            )
        return events

    def read_shipped(self) -> tuple[Position, int, Range | None]:
        """How far the server has acknowledged, the last event's timestamp, and a range whose fate is not known."""
        path = self._directory / "shipped.json"
        data = read_json(path)
        if data is None:
            if path.exists():
                log.warning("%s cannot be read: the console is sent again from its beginning", path)
            return Position(), 0, None
        segment, offset, last_ms = (_natural(data.get(name)) for name in ("segment", "offset", "last_ms"))
        return self._at_a_border(segment, offset), last_ms, self._range_in(data.get("sending"))

    def _at_a_border(self, segment: int, offset: int) -> Position:
        """The place itself, or the beginning of the record that it is amid, in a note that nobody of us has written."""
        if offset and self._read(segment, offset - 1, 1) not in (b"\n", b""):
            offset = self._read(segment, 0, offset).rfind(b"\n") + 1
        return Position(segment, offset)

    def _range_in(self, sending: object) -> Range | None:
        """A range that was written down; None if there is none, or none that holds whole records of ours."""
        said = {name: whole(mapping(sending).get(name)) for name in ("segment", "start", "end", "after_ms")}
        segment, start, end = said["segment"], said["start"], said["end"]
        if segment is None or start is None or end is None or not 0 <= start < end or segment < 0:
            return None
        if self._read(segment, end - 1, 1) != b"\n":
            return None
        return Range(segment=segment, start=start, end=end, after_ms=said["after_ms"] or 0)

    def write_shipped(self, position: Position, last_ms: int, sending: Range | None) -> None:
        value: Json = {"segment": position.segment, "offset": position.offset, "last_ms": last_ms}
        if sending is not None:
            value["sending"] = {
                "segment": sending.segment,
                "start": sending.start,
                "end": sending.end,
                "after_ms": sending.after_ms,
            }
        write_json(self._directory / "shipped.json", value)

    def records(self, position: Position) -> Iterator[tuple[Position, int, str, str]]:
        """(position after it, epoch ms, kind, text) of every whole record after `position`."""
        while (chunk := self.next_range(position, after_ms=0)) is not None:
            data = self._read(chunk.segment, chunk.start, chunk.end - chunk.start)
            offset = chunk.start
            for line in data.split(b"\n")[:-1]:
                offset += len(line) + 1
                at_ms, kind, text = _parse(line)
                yield Position(chunk.segment, offset), at_ms, kind, text
            position = chunk.position

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:06d}.log"


@dataclass(slots=True)
class _Group:
    offset: int
    at_ms: int
    kind: str
    lines: list[str]
    size: int


def _groups(data: bytes, start: int) -> Iterator[_Group]:
    group: _Group | None = None
    offset = start
    for line in data.split(b"\n")[:-1]:
        at_ms, kind, text = _parse(line)
        if group is not None and (
            kind != group.kind or at_ms - group.at_ms > SAME_MOMENT_MS or group.size + len(line) > EVENT_BYTES
        ):
            yield group
            group = None
        if group is None:
            group = _Group(offset, at_ms, kind, [], 0)
        group.lines.append(text)
        group.size += len(line)
        offset += len(line) + 1
    if group is not None:
        yield group


def _record(at_ms: int, kind: str, text: str) -> bytes:
    return f"{at_ms}\t{kind}\t{text}\n".encode("utf-8", "replace")


def _natural(value: object) -> int:
    return max(whole(value) or 0, 0)


def _parse(line: bytes) -> tuple[int, str, str]:
    """A record's fields; what is not a record (a disk that tore a page) is shown as it is rather than lost."""
    stamp, _, rest = line.partition(b"\t")
    kind, tab, text = rest.partition(b"\t")
    if not tab or not stamp.isdigit() or len(stamp) > LONGEST_STAMP:
        return 0, "w", line.decode("utf-8", "replace")
    return int(stamp), kind.decode("ascii", "replace"), text.decode("utf-8", "replace")
