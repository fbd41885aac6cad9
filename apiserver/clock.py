"""Time as the protocol writes it.

Records carry ISO-8601 text in UTC, always in the same width, so that text order is time order in every database; events
and statistics carry integer milliseconds. The clock is a value, so that tests can move it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]

system_clock: Clock = time.time


def timestamp(seconds: float) -> str:
    """`2026-11-22T03:20:34.920000+00:00`, cut to milliseconds."""
    moment = datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC)
    return moment.isoformat(timespec="microseconds")


def milliseconds(seconds: float) -> int:
    """Seconds since the epoch as the events carry them."""
    return int(seconds * 1000)


def seconds(text: str) -> float:
    """A timestamp of a record (or any ISO-8601 text; without an offset it is UTC) as seconds since the epoch."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def normalised(text: str) -> str:
    """Any ISO-8601 text in the form that records are stored in; `ValueError` when it is not a date."""
    return timestamp(seconds(text))
