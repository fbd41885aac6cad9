"""Chunks in a real database: what is written in small portions, out of order and twice is read back whole."""

import random
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver.events.console import CHUNK_BYTES, LogLine
from apiserver.events.incoming import Event, EventType
from apiserver.events.points import CHUNK_POINTS, NO_ITERATION, Point
from apiserver.store import console, documents, events, scalars
from apiserver.store.database import Transaction
from apiserver.store.event_tables import log_chunk, scalar_chunk
from apiserver.store.schema import metadata, to_json

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def engine():
    engine = sa.create_engine("sqlite://", json_serializer=to_json)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def tx(engine):
    with engine.connect() as connection, connection.begin() as transaction:
        yield Transaction(connection, NOW)
        transaction.rollback()


def line(text, timestamp):
    return LogLine(timestamp=timestamp, level="info", worker="w", msg=text, received=1)


def rows(tx, table):
    return tx.value(sa.select(sa.func.count()).select_from(table))


def test_small_batches_of_lines_share_a_chunk(tx):
    written = [line(f"line {number}", number) for number in range(100)]
    for one in written:
        console.add_lines(tx, "t", [one])
    assert console.lines_after(tx, "t", None, 1000) == written
    assert rows(tx, log_chunk) == 1


def test_a_large_console_is_many_chunks_and_never_rows(tx):
    written = [line(f"{number} " + "x" * 100, number) for number in range(10_000)]
    console.add_lines(tx, "t", written)
    assert console.count_lines(tx, "t") == 10_000
    assert rows(tx, log_chunk) == -(-10_000 * 170 // CHUNK_BYTES)
    assert console.lines_after(tx, "t", 9_989, 5) == written[9_990:9_995]
    assert console.lines_before(tx, "t", 10, 3) == written[7:10][::-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), max_size=12), st.integers(1, 6))
def test_walking_through_a_console_of_several_writers_misses_nothing(engine, batches, size):
    with engine.connect() as connection, connection.begin() as transaction:
        tx = Transaction(connection, NOW)
        written = [
            [line(f"{batch}.{place}", moment) for place, moment in enumerate(moments)]
            for batch, moments in enumerate(batches)
        ]
        for lines in written:
            console.add_lines(tx, "t", lines)
        seen, after = [], None
        while page := console.lines_after(tx, "t", after, size):
            seen += page
            after = page[-1].timestamp
        assert seen == sorted((one for lines in written for one in lines), key=lambda one: one.timestamp)
        transaction.rollback()


def test_ids_that_were_seen_are_known(tx):
    assert console.unseen_ids(tx, "t", ["a", "b", "a"]) == {"a", "b"}
    assert console.unseen_ids(tx, "t", ["b", "c"]) == {"c"}
    assert console.unseen_ids(tx, "other", ["b"]) == {"b"}
    assert len(console.unseen_ids(tx, "t", [f"id{number}" for number in range(2_000)])) == 2_000


def test_only_a_whole_batch_within_a_minute_is_a_repeat(engine):
    lines = [line("same", 1), line("same", 1)]
    with engine.connect() as connection, connection.begin() as transaction:
        assert not console.is_repeat(Transaction(connection, NOW), "t", lines)
        assert console.is_repeat(Transaction(connection, NOW + 59), "t", lines)
        assert not console.is_repeat(Transaction(connection, NOW + 59), "t", lines[:1])
        assert not console.is_repeat(Transaction(connection, NOW + 59), "u", lines)
        assert not console.is_repeat(Transaction(connection, NOW + 121), "t", lines)
        transaction.rollback()


def test_clearing_keeps_the_end_of_a_console(tx):
    console.add_lines(tx, "t", [line("x", number) for number in range(10)])
    console.add_lines(tx, "t", [line("y" * CHUNK_BYTES, 10)])
    assert console.clear_lines(tx, "t", before=7) == 7
    assert [one.timestamp for one in console.lines_after(tx, "t", None, 100)] == [7, 8, 9, 10]
    assert console.clear_lines(tx, "t", before=None) == 4
    assert rows(tx, log_chunk) == 0


def report(points):
    return {("loss", "train"): scalars.Report(worker="w", points=list(points))}


def read(tx):
    (series,) = scalars.series_of(tx, "t")
    assert series.points == len(scalars.points_of(tx, series))
    return scalars.points_of(tx, series)


def test_a_long_curve_is_closed_into_chunks(tx):
    written = [Point(number, number, number / 7) for number in range(CHUNK_POINTS * 3 + 10)]
    for start in range(0, len(written), 50):
        scalars.add_points(tx, "t", report(written[start : start + 50]))
    assert read(tx) == written
    assert rows(tx, scalar_chunk) == 3


def test_a_curve_written_backwards_twice_and_in_disorder_is_the_same_curve(tx):
    written = [Point(number, number, float(number)) for number in range(3_000)]
    disorder = random.Random(1).sample(written, len(written)) + written[::-1]
    for start in range(0, len(disorder), 97):
        scalars.add_points(tx, "t", report(disorder[start : start + 97]))
    assert read(tx) == written
    chunks = tx.all(sa.select(scalar_chunk).order_by(scalar_chunk.c.first_iteration))
    assert all(one["last_iteration"] < other["first_iteration"] for one, other in pairwise(chunks))


def test_a_corrected_point_replaces_the_old_one_also_in_a_closed_chunk(tx):
    scalars.add_points(tx, "t", report(Point(number, number, 0.0) for number in range(CHUNK_POINTS + 5)))
    scalars.add_points(tx, "t", report([Point(3, 9, 1.0), Point(CHUNK_POINTS + 1, 9, 2.0)]))
    points = read(tx)
    assert (points[3].value, points[CHUNK_POINTS + 1].value, len(points)) == (1.0, 2.0, CHUNK_POINTS + 5)


def test_a_value_without_an_iteration_is_found_at_the_front(tx):
    scalars.add_points(tx, "t", report(Point(number, 1, 0.0) for number in range(CHUNK_POINTS)))
    (series,) = scalars.series_of(tx, "t")
    assert scalars.single_value_of(tx, series) is None
    scalars.add_points(tx, "t", report([Point(NO_ITERATION, 5, 0.75)]))
    assert scalars.single_value_of(tx, series) == Point(NO_ITERATION, 5, 0.75)


def test_points_of_several_curves_are_walked_by_iteration(tx):
    for variant in ("a", "b"):
        many = scalars.Report(worker="w", points=[Point(number, 1, 0.0) for number in range(1_100)])
        scalars.add_points(tx, "t", {("m", variant): many})
    seen, after = 0, None
    while page := scalars.scalars_after(tx, "t", None, after, 333):
        assert len(page) in (334, 2_200 - seen)
        seen += len(page)
        after = page[-1].point.iteration
    assert seen == 2_200
    newest = scalars.scalars_before(tx, "t", {"m": ["b"]}, None, 2)
    assert [(one.variant, one.point.iteration) for one in newest] == [("b", 1_099), ("b", 1_098)]


def plot(iteration, text="{}", variant="v", kind=EventType.PLOT):
    return Event(
        type=kind,
        owner="t",
        model_event=False,
        timestamp=1,
        worker="w",
        metric="m",
        variant=variant,
        iteration=iteration,
        event_id=None,
        content={"plot_str": text},
    )


def test_a_plot_reported_again_replaces_the_first(tx):
    documents.add_documents(tx, [plot(1, "old"), plot(1, "newer")])
    documents.add_documents(tx, [plot(1, "newest"), plot(2)])
    found = documents.outlines(tx, "t", EventType.PLOT)
    assert [one.iteration for one in found] == [1, 2]
    assert documents.contents(tx, [found[0].id])[0]["plot_str"] == "newest"


def test_only_the_newest_hundred_iterations_of_a_plot_are_kept(tx):
    documents.add_documents(tx, [plot(number) for number in range(150)])
    documents.add_documents(tx, [plot(number, kind=EventType.VECTOR) for number in range(150)])
    kept = [one.iteration for one in documents.outlines(tx, "t", EventType.PLOT)]
    assert kept == list(range(50, 150))
    assert len(documents.outlines(tx, "t", EventType.VECTOR)) == 150


def test_what_json_cannot_say_is_not_stored(tx):
    event = plot(1)
    odd = Event(
        **{name: getattr(event, name) for name in event.__slots__} | {"content": {"values": [float("nan"), 1.0]}}
    )
    documents.add_documents(tx, [odd])
    (found,) = documents.outlines(tx, "t", EventType.PLOT)
    assert documents.contents(tx, [found.id])[0]["values"] == [None, 1.0]


def test_nothing_of_a_deleted_task_is_left(tx):
    console.add_lines(tx, "t", [line("x", 1)])
    scalars.add_points(tx, "t", report(Point(number, 1, 0.0) for number in range(CHUNK_POINTS)))
    documents.add_documents(tx, [plot(1)])
    assert events.delete_for_task(tx, "t") == 2 + CHUNK_POINTS
    assert [rows(tx, table) for table in (log_chunk, scalar_chunk)] == [0, 0]
    assert scalars.series_of(tx, "t") == []
    assert documents.outlines(tx, "t", EventType.PLOT) == []
