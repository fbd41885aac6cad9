"""Calls that wait: for a task in one of several queues, and for a task's status to change."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.apiserver import CallError, ServerProcess

WAIT = 20


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


_numbers = iter(range(1_000_000))


@pytest.fixture
def queue(server: ServerProcess) -> str:
    return server.new_queue(f"queue {next(_numbers)}")


def enqueued(server: ServerProcess, queue: str) -> str:
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    return task


def waiting(pool: ThreadPoolExecutor, server: ServerProcess, **body: Any) -> Future[dict[str, Any]]:
    """A call that waits on the server by now."""
    before = parked(server)
    future = pool.submit(lambda: server.call("queues.get_next_task", **{"wait": WAIT, **body}))
    server.wait_until(lambda: parked(server) > before or future.done())
    return future


def parked(server: ServerProcess) -> int:
    count: int = server.session().get(f"{server.api}/health", timeout=10).json()["waiting"]
    return count


def test_a_waiting_pop_gets_the_task_the_moment_it_is_enqueued(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str
) -> None:
    future = waiting(pool, server, queue=queue)
    task = server.new_task()
    before = time.monotonic()
    server.call("tasks.enqueue", task=task, queue=queue)
    assert future.result(5)["entry"]["task"] == task
    assert time.monotonic() - before < 1


def test_a_wait_ends_empty_handed_when_the_time_is_over(server: ServerProcess, queue: str) -> None:
    before = time.monotonic()
    reply = server.call("queues.get_next_task", queues=[queue], wait=0.3)
    assert 0.25 < time.monotonic() - before < 3
    assert reply == {"queues": [{"id": queue, "tags": []}]}
    assert server.call("queues.get_next_task", queue=queue) == {}


def test_queues_are_looked_into_in_order_of_preference(server: ServerProcess, queue: str) -> None:
    second = server.new_queue(f"queue {next(_numbers)}")
    later, sooner = enqueued(server, second), enqueued(server, queue)
    replies = [server.call("queues.get_next_task", queues=[queue, second], wait=1) for _ in range(2)]
    assert [(reply["entry"]["task"], reply["queue"]) for reply in replies] == [(sooner, queue), (later, second)]


def test_an_unknown_queue_among_several_is_named(server: ServerProcess, queue: str) -> None:
    with pytest.raises(CallError, match="no-such-queue") as refused:
        server.call("queues.get_next_task", queues=[queue, "no-such-queue"], wait=1)
    assert refused.value.codes == (400, 701)


def test_a_deleted_queue_is_empty_and_its_tags_send_workers_away(server: ServerProcess, queue: str) -> None:
    server.call("queues.delete", queue=queue)
    reply = server.call("queues.get_next_task", queues=[queue], wait=0)
    assert reply == {"queues": [{"id": queue, "tags": ["force_workers:off"]}]}
    assert server.call("queues.get_next_task", queue=queue) == {}
    shown = server.call("queues.get_all", id=[queue], only_fields=["id", "tags"])["queues"]
    assert shown == [{"id": queue, "tags": ["force_workers:off"]}]
    assert queue not in [found["id"] for found in server.call("queues.get_all")["queues"]]


def test_one_new_task_wakes_one_peek_and_two_wake_two(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str
) -> None:
    futures = [waiting(pool, server, queues=[queue], peek=True, wait=3) for _ in range(4)]
    tasks = {enqueued(server, queue)}
    server.wait_until(lambda: any(future.done() for future in futures))
    tasks.add(enqueued(server, queue))
    server.wait_until(lambda: sum(future.done() for future in futures) == 2)
    seen = {future.result()["entry"]["task"] for future in futures if future.done()}
    assert seen == tasks
    for task in tasks:
        assert server.call("queues.get_next_task", queue=queue, task=task)["entry"]["task"] == task
    assert [future.result(15).get("entry") for future in futures].count(None) == 2


def test_a_peek_does_not_pop(server: ServerProcess, queue: str) -> None:
    task = enqueued(server, queue)
    assert server.call("queues.get_next_task", queues=[queue], peek=True)["entry"]["task"] == task
    assert server.call("queues.get_num_entries", queue=queue) == {"num": 1}


def test_a_reservation_hides_an_entry_from_other_peeks_until_it_lapses(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str
) -> None:
    task = enqueued(server, queue)
    assert server.call("queues.get_next_task", queues=[queue], peek=True, claim="mine")["entry"]["task"] == task
    other = server.call("queues.get_next_task", queues=[queue], peek=True, claim="theirs")
    assert "entry" not in other
    again = server.call("queues.get_next_task", queues=[queue], peek=True, claim="mine")
    assert again["entry"]["task"] == task
    late = waiting(pool, server, queues=[queue], peek=True, claim="theirs")
    assert late.result(10)["entry"]["task"] == task


def test_the_reservation_of_a_client_that_went_away_is_handed_on(
    server: ServerProcess, pool: ThreadPoolExecutor, queue: str
) -> None:
    gone = parked_socket(server, {"queues": [queue], "peek": True, "wait": WAIT})
    stays = waiting(pool, server, queues=[queue], peek=True)
    gone.close()
    task = enqueued(server, queue)
    assert stays.result(10)["entry"]["task"] == task


def test_a_pop_of_a_client_that_went_away_takes_nothing(server: ServerProcess, queue: str) -> None:
    before = parked(server)
    gone = parked_socket(server, {"queues": [queue], "wait": WAIT})
    gone.close()
    server.wait_until(lambda: parked(server) == before)
    task = enqueued(server, queue)
    assert server.call("queues.get_next_task", queue=queue)["entry"]["task"] == task


def parked_socket(server: ServerProcess, body: dict[str, Any]) -> socket.socket:
    """A connection with a waiting call on it."""
    before = parked(server)
    host, port = server.api.removeprefix("http://").split(":")
    text = json.dumps(body).encode()
    head = (
        f"POST /queues.get_next_task HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {server.token()}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)), 10)
    connection.sendall(head.encode() + text)
    server.wait_until(lambda: parked(server) > before)
    return connection


def test_a_repeated_claim_gives_the_same_entry_and_only_to_the_claimer(server: ServerProcess, queue: str) -> None:
    task = enqueued(server, queue)
    ask = {"queue": queue, "task": task, "claim": "claim-1"}
    first = server.call("queues.get_next_task", **ask)
    assert server.call("queues.get_next_task", **ask) == first
    assert server.call("queues.get_next_task", **{**ask, "claim": "claim-2"}) == {}
    server.call("tasks.started", task=task)
    assert server.call("queues.get_next_task", **ask) == {}


def test_a_named_task_may_stand_anywhere_in_the_queue(server: ServerProcess, queue: str) -> None:
    tasks = [enqueued(server, queue) for _ in range(3)]
    assert server.call("queues.get_next_task", queues=[queue], task=tasks[1], claim="c")["entry"]["task"] == tasks[1]
    left = server.call("queues.get_by_id", queue=queue)["queue"]["entries"]
    assert [entry["task"] for entry in left] == [tasks[0], tasks[2]]


def test_a_status_wait_returns_when_status_or_message_changes(server: ServerProcess, pool: ThreadPoolExecutor) -> None:
    task = server.new_task()
    server.call("tasks.started", task=task)
    for change in (
        lambda: server.call("tasks.update", task=task, status_message="stopping"),
        lambda: server.call("tasks.completed", task=task),
        lambda: server.call("tasks.delete", task=task, force=True),
    ):
        found = status_of(server, task)
        known = {task: found[0]} if found else {}
        future = pool.submit(status_of, server, task, wait=WAIT, known=known)
        with pytest.raises(TimeoutError):
            future.result(0.2)
        change()
        assert future.result(5) != found


def status_of(server: ServerProcess, task: str, **more: Any) -> list[list[str]]:
    fields = ["status", "status_message"]
    found = server.call("tasks.get_all", id=[task], only_fields=fields, **more)["tasks"]
    return [[one["status"], one["status_message"]] for one in found]


def test_a_status_wait_answers_at_once_when_something_differs_already(server: ServerProcess) -> None:
    task = server.new_task()
    before = time.monotonic()
    assert status_of(server, task, wait=WAIT, known={task: ["in_progress", ""]}) == [["created", ""]]
    assert time.monotonic() - before < 5


def test_five_hundred_calls_wait_at_once_and_each_gets_its_own_task(server: ServerProcess, queue: str) -> None:
    count = 500
    body = json.dumps({"queues": [queue], "wait": 25}).encode()
    answers = asyncio.run(many_waiters(server, queue, body, count))
    tasks = [answer["data"]["entry"]["task"] for answer in answers]
    assert len(set(tasks)) == count
    assert server.call("queues.get_num_entries", queue=queue) == {"num": 0}


async def many_waiters(server: ServerProcess, queue: str, body: bytes, count: int) -> list[dict[str, Any]]:
    host, port = server.api.removeprefix("http://").split(":")
    head = (
        f"POST /queues.get_next_task HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Authorization: Bearer {server.token()}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def wait_for_one() -> dict[str, Any]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        reply: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return reply

    waiters = [asyncio.create_task(wait_for_one()) for _ in range(count)]
    await asyncio.to_thread(feed, server, queue, count)
    return await asyncio.gather(*waiters)


def feed(server: ServerProcess, queue: str, count: int) -> None:
    for _ in range(count):
        enqueued(server, queue)


def test_stopping_the_server_sends_those_who_wait_home() -> None:
    with ServerProcess() as server, ThreadPoolExecutor(1) as pool:
        queue = server.new_queue("a queue")
        future = waiting(pool, server, queues=[queue])
        before = time.monotonic()
        server.process.terminate()
        assert "entry" not in future.result(5)
        assert server.process.wait(10) == 0
        assert time.monotonic() - before < 5
