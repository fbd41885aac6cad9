"""What steers a worker reaches it over the call in which it waits: at once, all of it, and never instead of a task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.apiserver import CallError, ServerProcess

WAIT = 20
WATCHERS = 50
OFF = "force_workers:off"

_numbers = iter(range(1_000_000))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WATCHERS) as threads:
        yield threads


@pytest.fixture
def queue(server: ServerProcess) -> str:
    return server.new_queue(f"steered {next(_numbers)}")


@pytest.fixture
def worker() -> str:
    return f"host:{next(_numbers)}"


def ask(server: ServerProcess, worker: str, queue: str, known: str = "", **more: Any) -> dict[str, Any]:
    """One call as an agent makes it."""
    watch = {"worker": worker, "queues": [queue], "known": known}
    return server.call("queues.get_next_task", **{"queues": [queue], "peek": True, "watch": watch, **more})


def mark(server: ServerProcess, worker: str, queue: str) -> str:
    known: str = ask(server, worker, queue)["steering"]["mark"]
    return known


def parked(server: ServerProcess) -> int:
    count: int = server.session().get(f"{server.api}/health", timeout=10).json()["waiting"]
    return count


def watching(
    pool: ThreadPoolExecutor, server: ServerProcess, worker: str, queue: str, **more: Any
) -> Future[dict[str, Any]]:
    """A call that waits on the server by now and knows how things are."""
    before, known = parked(server), mark(server, worker, queue)
    future = pool.submit(ask, server, worker, queue, known, wait=WAIT, **more)
    server.wait_until(lambda: parked(server) > before)
    return future


def steer(server: ServerProcess, worker: str, value: str, **more: Any) -> None:
    item = {"key": "force", "value": value, **more}
    server.call("workers.set_runtime_properties", worker=worker, runtime_properties=[item])


def enqueued(server: ServerProcess, queue: str) -> str:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    return task


def name_of(server: ServerProcess, queue: str) -> str:
    name: str = server.call("queues.get_by_id", queue=queue)["queue"]["name"]
    return name


def test_who_knows_nothing_is_told_at_once_and_gets_no_task(server: ServerProcess, queue: str, worker: str) -> None:
    task = enqueued(server, queue)
    steer(server, worker, "on", expiry=100)
    first = ask(server, worker, queue, wait=WAIT)
    told = first["steering"]
    assert "entry" not in first
    assert told["queues"] == [{"id": queue, "name": name_of(server, queue), "tags": []}]
    assert [(one["key"], one["value"]) for one in told["properties"]] == [("force", "on")]
    assert 95 <= told["properties"][0]["expiry"] <= 100
    second = ask(server, worker, queue, told["mark"], wait=WAIT)
    assert second["entry"]["task"] == task
    assert second["steering"]["mark"] == told["mark"]
    assert second["queues"] == [{"id": queue, "tags": []}]


def test_a_wait_that_ends_with_nothing_tells_the_steering_too(server: ServerProcess, queue: str, worker: str) -> None:
    known = mark(server, worker, queue)
    reply = ask(server, worker, queue, known, wait=0.3)
    assert "entry" not in reply
    assert reply["steering"]["mark"] == known


def test_a_tag_a_name_and_the_end_of_a_queue_are_told_at_once(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    other = f"renamed {next(_numbers)}"
    changes = (
        (lambda: server.call("queues.update", queue=queue, tags=[OFF]), {"tags": [OFF]}),
        (lambda: server.call("queues.update", queue=queue, name=other), {"name": other, "tags": [OFF]}),
        (lambda: server.call("queues.delete", queue=queue), {"name": other, "gone": True}),
    )
    for change, expected in changes:
        future = watching(pool, server, worker, queue)
        change()
        told = future.result(5)["steering"]["queues"]
        assert [{"id": queue, **expected}] == [{key: told[0][key] for key in ("id", *expected)}]


def test_a_property_is_told_at_once_when_it_is_set_and_when_it_is_deleted(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    future = watching(pool, server, worker, queue)
    steer(server, worker, "off")
    assert future.result(5)["steering"]["properties"] == [{"key": "force", "value": "off"}]
    future = watching(pool, server, worker, queue)
    steer(server, worker, "", expiry=0)
    assert future.result(5)["steering"]["properties"] == []


def test_changes_that_steer_nobody_and_those_of_others_disturb_nobody(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    future = watching(pool, server, worker, queue)
    server.call("queues.update", queue=queue, display_name="shown")
    server.call("queues.update", queue=queue, tags=[])
    server.call("queues.update", queue=server.new_queue(f"another {next(_numbers)}"), tags=[OFF])
    steer(server, f"{worker}:another", "off")
    with pytest.raises(TimeoutError):
        future.result(0.3)
    task = enqueued(server, queue)
    assert future.result(5)["entry"]["task"] == task


def test_time_that_passes_is_no_change_until_a_property_lapses(server: ServerProcess, queue: str, worker: str) -> None:
    steer(server, worker, "off", expiry=2.0)
    known = mark(server, worker, queue)
    reply = ask(server, worker, queue, known, wait=0.2)
    assert reply["steering"]["mark"] == known
    reply = ask(server, worker, queue, known, wait=2.5)
    assert reply["steering"]["properties"] == []
    assert reply["steering"]["mark"] != known
    assert reply["steering"]["mark"] == mark(server, worker, queue)


def test_without_queues_the_call_only_waits_for_news(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    task = enqueued(server, queue)
    future = watching(pool, server, worker, queue, queues=[], peek=False)
    with pytest.raises(TimeoutError):
        future.result(0.3)
    server.call("queues.update", queue=queue, tags=["some"])
    reply = future.result(5)
    assert reply["steering"]["queues"][0]["tags"] == ["some"]
    assert reply["queues"] == []
    assert "entry" not in reply
    assert ask(server, worker, queue, reply["steering"]["mark"])["entry"]["task"] == task


def test_a_queue_that_is_gone_or_never_was_has_nothing_and_the_others_go_on(
    server: ServerProcess, queue: str, worker: str
) -> None:
    gone = server.new_queue(f"short {next(_numbers)}")
    server.call("queues.delete", queue=gone)
    watch = {"worker": worker, "queues": [gone, "never-was", queue], "known": ""}
    several = {"queues": ["never-was", gone, queue], "watch": watch, "wait": WAIT}
    told = server.call("queues.get_next_task", **several)
    assert [one.get("gone", False) for one in told["steering"]["queues"]] == [True, True, False]
    assert [one["tags"] for one in told["queues"]] == [[OFF], [OFF], []]
    task = enqueued(server, queue)
    watch["known"] = told["steering"]["mark"]
    assert server.call("queues.get_next_task", **several)["entry"]["task"] == task


def test_a_pop_waits_and_watches_as_a_peek_does(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    future = watching(pool, server, worker, queue, peek=False)
    task = enqueued(server, queue)
    assert future.result(5)["entry"]["task"] == task
    assert server.call("queues.get_num_entries", queue=queue) == {"num": 0}


def test_fifty_watchers_are_all_told(server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str) -> None:
    before, known = parked(server), mark(server, worker, queue)
    futures = [pool.submit(ask, server, worker, queue, known, wait=WAIT) for _ in range(WATCHERS)]
    server.wait_until(lambda: parked(server) == before + WATCHERS)
    started = time.monotonic()
    server.call("queues.update", queue=queue, tags=[OFF])
    replies = [future.result(10) for future in futures]
    assert time.monotonic() - started < 5
    assert {reply["steering"]["queues"][0]["tags"][0] for reply in replies} == {OFF}


def test_a_task_that_is_enqueued_together_with_a_change_is_not_lost(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str, worker: str
) -> None:
    for number in range(10):
        watcher = watching(pool, server, worker, queue, peek=False)  # the longest waiting: woken for both
        before = parked(server)
        plain = pool.submit(server.call, "queues.get_next_task", queues=[queue], wait=WAIT)
        server.wait_until(lambda before=before: parked(server) > before)
        task = server.new_task()
        both = [
            pool.submit(server.call, "queues.update", queue=queue, tags=[f"tag {number}"]),
            pool.submit(server.call, "tasks.enqueue", task=task, queue=queue),
        ]
        for change in both:
            change.result(5)
        taken = watcher.result(5).get("entry")
        if taken is not None:
            assert taken["task"] == task
            task = enqueued(server, queue)
        assert plain.result(5)["entry"]["task"] == task


def test_a_queue_made_again_under_its_old_name_is_another_queue(
    server: ServerProcess, pool: ThreadPoolExecutor, worker: str
) -> None:
    name = f"phoenix {next(_numbers)}"
    old = server.new_queue(name)
    server.call("queues.delete", queue=old)
    new = server.new_queue(name)
    assert new != old
    assert [found["id"] for found in server.call("queues.get_all", name=name)["queues"]] == [new]
    assert ask(server, worker, old)["steering"]["queues"][0]["gone"] is True
    future = watching(pool, server, worker, new)
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue_name=name)
    assert future.result(5)["entry"]["task"] == task
    server.call("queues.delete", queue=new, force=True)
    assert server.new_queue(name) not in {old, new}


def test_tags_of_a_status_report_show_at_once(server: ServerProcess, queue: str, worker: str) -> None:
    server.call("workers.register", worker=worker, queues=[queue], tags=["before"])
    for tags in (["draining"], []):
        server.call("workers.status_report", worker=worker, timestamp=0, queues=[queue], tags=tags)
        assert [found["tags"] for found in server.call("workers.get_all", worker_pattern=worker)["workers"]] == [tags]


@pytest.mark.parametrize(
    "watch",
    [
        {},
        {"worker": ""},
        {"worker": 1, "queues": []},
        {"worker": "w", "queues": "q"},
        {"worker": "w", "queues": [1]},
        {"worker": "w", "queues": [], "known": 7},
        "w",
        ["w"],
    ],
)
def test_a_watch_of_another_shape_is_refused(server: ServerProcess, queue: str, watch: Any) -> None:
    with pytest.raises(CallError) as refused:
        server.call("queues.get_next_task", queues=[queue], watch=watch)
    assert refused.value.codes == (400, 12)


def test_without_a_watch_an_empty_list_of_queues_is_refused_as_ever(server: ServerProcess) -> None:
    with pytest.raises(CallError) as refused:
        server.call("queues.get_next_task", queues=[], wait=1)
    assert refused.value.codes == (400, 12)
