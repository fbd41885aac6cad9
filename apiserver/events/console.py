"""Console lines in chunks: how log events are packed, and how a page of them is read.

A log event is one report of a client: usually many lines joined with newlines. They are kept in compressed chunks of
up to 256 KiB of text per task, not as rows, because one row per line is what made event stores of this kind stall
(server_api.md, 7.3). The last chunk of a task stays open: small batches are packed into it until it is full.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHUNK_BYTES = 256 * 1024
#: An open chunk is rewritten by the next batch, so it is closed long before rewriting it would cost something.
OPEN_CHUNK_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log event as it is stored."""

    timestamp: int
    level: str
    worker: str
    msg: str
    received: int
    metric: str = ""
    variant: str = ""


def size_of(line: LogLine) -> int:
    """Say how much of a chunk a line fills; an estimate, the compressed size is smaller."""
    return len(line.msg) + 64


def packed(lines: Iterable[LogLine]) -> list[list[LogLine]]:
    """Cut lines into chunks; a line that is larger than a chunk gets one of its own."""
    chunks: list[list[LogLine]] = []
    room = 0
    for line in lines:
        room -= size_of(line)
        if room < 0 or not chunks:
            chunks.append([])
            room = CHUNK_BYTES - size_of(line)
        chunks[-1].append(line)
    return chunks


def encode(lines: Sequence[LogLine]) -> bytes:
    """Turn lines into the bytes of a chunk."""
    rows = [
        [line.timestamp, line.level, line.worker, line.msg, line.received, line.metric, line.variant] for line in lines
    ]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode("ascii"), 1)


def decode(body: bytes) -> list[LogLine]:
    """Read the lines of a chunk."""
    return [LogLine(*row) for row in json.loads(zlib.decompress(body))]
