"""What was answered is there after SIGKILL, and no task is lost or doubled by clients that come at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests
from support.apiserver import CallError, ServerProcess


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


def test_every_acknowledged_change_survives_a_kill_in_the_middle(server: ServerProcess) -> None:
    queue = server.new_queue("a queue")
    enqueued: list[str] = []
    created: list[str] = []
    enough = threading.Event()

    def make_tasks() -> None:
        try:
            while True:
                task = server.new_task()
                created.append(task)
                server.call("tasks.enqueue", task=task, queue=queue)
                enqueued.append(task)
                if len(enqueued) >= 60:
                    enough.set()
        except (requests.RequestException, CallError):
            enough.set()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(make_tasks)
        assert enough.wait(30)
        server.kill()
    server.restart()
    there = {found["id"] for page in range(20) for found in tasks_on(server, page)}
    assert set(created) <= there
    waiting = [entry["task"] for entry in server.call("queues.get_by_id", queue=queue)["queue"]["entries"]]
    assert set(enqueued) <= set(waiting)
    assert max(Counter(waiting).values()) == 1
    assert {server.status(task) for task in enqueued} == {"queued"}


def tasks_on(server: ServerProcess, page: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = server.call("tasks.get_all", only_fields=["id"], page=page, page_size=500)["tasks"]
    return found


def test_everything_else_that_was_answered_survives_too(server: ServerProcess) -> None:
    queue = server.new_queue("a queue")
    tasks = [server.new_task() for _ in range(3)]
    for task in tasks:
        server.call("tasks.enqueue", task=task, queue=queue)
    server.call("queues.move_task_to_front", queue=queue, task=tasks[2])
    popped = server.call("queues.get_next_task", queue=queue, task=tasks[1], claim="c")
    server.call("tasks.started", task=tasks[1], status_message="by hand")
    server.call("workers.register", worker="host:0", queues=[queue])
    server.call("workers.set_runtime_properties", worker="host:0", runtime_properties=[{"key": "force", "value": "on"}])
    token, key = server.token(), server.access_key
    server.kill()
    server.restart()
    assert popped["entry"]["task"] == tasks[1]
    assert [entry["task"] for entry in server.call("queues.get_by_id", queue=queue)["queue"]["entries"]] == [
        tasks[2],
        tasks[0],
    ]
    assert server.status(tasks[1]) == "in_progress"
    assert [worker["id"] for worker in server.call("workers.get_all")["workers"]] == ["host:0"]
    properties = server.call("workers.get_runtime_properties", worker="host:0")["runtime_properties"]
    assert properties == [{"key": "force", "value": "on"}]
    assert server.access_key == key
    assert server.call_as(token, "users.get_current_user", {})["user"]["id"]


def test_a_popped_task_that_nobody_started_is_still_leased_after_a_kill(server: ServerProcess) -> None:
    queue = server.new_queue("a queue")
    task = server.new_task()
    server.call("tasks.enqueue", task=task, queue=queue)
    ask = {"queue": queue, "task": task, "claim": "c"}
    first = server.call("queues.get_next_task", **ask)
    server.kill()
    server.restart()
    assert server.call("queues.get_next_task", **ask) == first


@contextmanager
def suppress_gone() -> Iterator[None]:
    """Another client popped the task meanwhile."""
    try:
        yield
    except CallError as error:
        if error.codes != (400, 703):
            raise


def test_concurrent_clients_neither_lose_nor_double_a_task(server: ServerProcess) -> None:
    queues = [server.new_queue(f"queue {number}") for number in range(3)]
    made: list[str] = []
    popped: list[str] = []
    all_made = threading.Event()
    producers, each = 4, 25

    def produce(number: int) -> None:
        for turn in range(each):
            task = server.new_task()
            made.append(task)
            server.call("tasks.enqueue", task=task, queue=queues[(number + turn) % 3])

    def consume() -> None:
        while True:
            finished = all_made.is_set()
            reply = server.call("queues.get_next_task", queues=queues, wait=0.2)
            if "entry" in reply:
                popped.append(reply["entry"]["task"])
                server.call("tasks.started", task=reply["entry"]["task"])
            elif finished:
                return

    def meddle() -> None:
        while not all_made.is_set():
            for queue in queues:
                for entry in server.call("queues.get_by_id", queue=queue)["queue"]["entries"][:2]:
                    for move in ("queues.move_task_backward", "queues.move_task_to_front"):
                        with suppress_gone():
                            server.call(move, queue=queue, task=entry["task"])

    with ThreadPoolExecutor(16) as pool:
        consumers = [pool.submit(consume) for _ in range(8)]
        meddlers = [pool.submit(meddle) for _ in range(2)]
        for future in [pool.submit(produce, number) for number in range(producers)]:
            future.result(60)
        all_made.set()
        for future in (*consumers, *meddlers):
            future.result(60)
    assert Counter(popped) == Counter(made)
    assert all(server.call("queues.get_num_entries", queue=queue) == {"num": 0} for queue in queues)
