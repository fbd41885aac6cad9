"""Points, chunks, sampling and `last_metrics`: arithmetic only."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.events.metrics import combined, name_hash, on_the_wire, summary_of
from apiserver.events.points import CHUNK_POINTS, Axis, Point, curve_of, decode, encode, iso_time, merged, split

iterations = st.integers(min_value=-(2**63), max_value=2**63 - 1)
points = st.lists(st.builds(Point, iterations, iterations, st.floats(allow_nan=False, allow_infinity=False)))


@given(points)
def test_points_survive_packing(some):
    assert decode(encode(some)) == some


@given(points, points)
def test_a_repeated_report_changes_nothing(before, new):
    once = merged(before, new)
    assert merged(once, new) == once
    assert [point.iteration for point in once] == sorted({point.iteration for point in before + new})


def test_the_later_report_of_an_iteration_wins():
    assert merged([Point(1, 10, 0.5)], [Point(1, 20, 0.7)]) == [Point(1, 20, 0.7)]


def test_chunks_are_cut_at_their_size():
    many = [Point(i, i, 0.0) for i in range(CHUNK_POINTS * 2 + 1)]
    assert [len(chunk) for chunk in split(many)] == [CHUNK_POINTS, CHUNK_POINTS, 1]


def test_a_short_curve_is_shown_as_it_is():
    curve = curve_of([Point(1, 100, 0.5), Point(4, 50, 0.25)], Axis.ITERATION, 2)
    assert (curve.x, curve.y) == ((1, 4), (0.5, 0.25))


def test_a_long_curve_is_shown_as_means_of_equal_widths():
    curve = curve_of([Point(i, i, float(i)) for i in range(100)], Axis.ITERATION, 10)
    assert curve.x == tuple(range(4, 100, 10))
    assert curve.y == pytest.approx([4.5 + 10 * i for i in range(10)])


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True), st.integers(1, 50))
def test_sampling_never_shows_more_points_than_asked_for(places, samples):
    curve = curve_of([Point(i, i, 1.0) for i in sorted(places)], Axis.TIMESTAMP, samples)
    assert len(curve.x) == len(curve.y) <= max(samples, 1)
    assert all(math.isclose(y, 1.0) for y in curve.y)


def test_time_axes_are_in_the_order_of_time():
    some = [Point(1, 2000, 0.1), Point(2, 1000, 0.2)]
    assert curve_of(some, Axis.TIMESTAMP, 10).x == (1000, 2000)
    assert curve_of(some, Axis.ISO_TIME, 10).x == (iso_time(1000), "1970-01-01T00:00:02.000+00:00")


def test_the_value_is_that_of_the_largest_iteration_in_a_request():
    last = summary_of([Point(3, 10, 0.3), Point(5, 20, 0.5), Point(4, 30, 0.9)])
    assert (last.value, last.iteration) == (0.5, 5)
    assert (last.min_value, last.min_value_iteration) == (0.3, 3)
    assert (last.max_value, last.max_value_iteration) == (0.9, 4)
    assert (last.first_value, last.first_value_iteration) == (0.3, 3)
    assert last.count == 3
    assert last.mean_value == pytest.approx(1.7 / 3)


def test_an_older_request_does_not_replace_the_value():
    last = combined(summary_of([Point(5, 1, 0.5)]), summary_of([Point(2, 2, 0.2)]))
    assert (last.value, last.iteration, last.min_value, last.count) == (0.5, 5, 0.2, 2)


def test_in_one_iteration_the_later_request_wins():
    assert combined(summary_of([Point(5, 1, 0.5)]), summary_of([Point(5, 0, 0.4)])).value == 0.4


def test_the_first_iteration_that_reached_an_extreme_keeps_it():
    last = combined(summary_of([Point(5, 1, 0.5)]), summary_of([Point(6, 2, 0.5)]))
    assert (last.min_value_iteration, last.max_value_iteration) == (5, 5)


def test_the_first_value_never_changes():
    assert combined(summary_of([Point(5, 1, 0.5)]), summary_of([Point(1, 2, 0.1)])).first_value_iteration == 5


def test_names_become_keys_by_their_hash():
    assert name_hash("abc") == "900150983cd24fb0d6963f7d28e17f72"
    entry = on_the_wire("loss", "train", summary_of([Point(1, 1, 2.0)]), x_axis_label="epoch")
    assert (entry["metric"], entry["variant"], entry["value"], entry["x_axis_label"]) == ("loss", "train", 2.0, "epoch")
