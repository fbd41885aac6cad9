"""Scalar curves: points packed into chunks, and the sampling of a curve for display.

A series is one (task, metric, variant). Its points are keyed by iteration: a point reported again replaces the earlier
one, so a repeated request is harmless. A chunk holds up to `CHUNK_POINTS` points in three plain arrays, sorted by
iteration; the chunks of one series never overlap.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

CHUNK_POINTS = 512
#: The iteration under which the SDK reports values that belong to no iteration ("single values").
NO_ITERATION = -(2**31)


class Point(NamedTuple):
    """One reported value."""

    iteration: int
    timestamp: int
    value: float


class Axis(StrEnum):
    """What a curve's x axis shows."""

    ITERATION = "iter"
    TIMESTAMP = "timestamp"
    ISO_TIME = "iso_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A sampled series, ready for the wire."""

    x: tuple[int | str, ...]
    y: tuple[float, ...]


def encode(points: Sequence[Point]) -> bytes:
    """Pack points: all iterations, then all timestamps, then all values, little-endian."""
    columns = (
        array("q", (point.iteration for point in points)),
        array("q", (point.timestamp for point in points)),
        array("d", (point.value for point in points)),
    )
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    return b"".join(column.tobytes() for column in columns)


def decode(body: bytes) -> list[Point]:
    """Unpack what `encode` packed."""
    third = len(body) // 3
    iterations, timestamps, values = array("q"), array("q"), array("d")
    iterations.frombytes(body[:third])
    timestamps.frombytes(body[third : 2 * third])
    values.frombytes(body[2 * third :])
    if sys.byteorder == "big":
        for column in (iterations, timestamps, values):
            column.byteswap()
    return list(map(Point, iterations, timestamps, values))


def merged(existing: Iterable[Point], new: Iterable[Point]) -> list[Point]:
    """Lay new points over existing ones: sorted by iteration, the later report of an iteration wins."""
    by_iteration = {point.iteration: point for point in existing}
    by_iteration.update((point.iteration, point) for point in new)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def split(points: Sequence[Point]) -> list[Sequence[Point]]:
    """Cut sorted points into chunks."""
    return [points[start : start + CHUNK_POINTS] for start in range(0, len(points), CHUNK_POINTS)]


def curve_of(points: Sequence[Point], axis: Axis, samples: int) -> Curve:
    """Sample a series for display.

    Up to `samples` points are shown as they are. More are put into buckets of equal width along the axis, and each
    bucket shows the mean of its points in both directions.
    """
    position = _position_on(axis)
    ordered = points if axis is Axis.ITERATION else sorted(points, key=position)
    if len(ordered) <= samples:
        pairs = [(position(point), point.value) for point in ordered]
    else:
        pairs = _bucket_means([(position(point), point.value) for point in ordered], samples)
    x: tuple[int | str, ...] = tuple(place for place, _ in pairs)
    if axis is Axis.ISO_TIME:
        x = tuple(iso_time(place) for place, _ in pairs)
    return Curve(x=x, y=tuple(value for _, value in pairs))


def iso_time(milliseconds: int) -> str:
    """Write a time in milliseconds the way every `ts` field is written."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).isoformat(timespec="milliseconds")


def _position_on(axis: Axis) -> Callable[[Point], int]:
    if axis is Axis.ITERATION:
        return lambda point: point.iteration
    return lambda point: point.timestamp


def _bucket_means(pairs: Sequence[tuple[int, float]], buckets: int) -> list[tuple[int, float]]:
    start, span = pairs[0][0], pairs[-1][0] - pairs[0][0] + 1
    sums: dict[int, list[float]] = {}
    for place, value in pairs:
        bucket = sums.setdefault((place - start) * buckets // span, [0, 0.0, 0])
        bucket[0] += place
        bucket[1] += value
        bucket[2] += 1
    return [(round(x / n), y / n) for x, y, n in (sums[index] for index in sorted(sums))]


def curves_by_name(series: Mapping[tuple[str, str], Curve]) -> dict[str, dict[str, Curve]]:
    """Nest curves by metric and variant, both in alphabetical order."""
    nested: dict[str, dict[str, Curve]] = {}
    for metric, variant in sorted(series):
        nested.setdefault(metric, {})[variant] = series[metric, variant]
    return nested
