"""What the server does unasked, with short intervals and a clock that tests move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.apiserver_store import ASKED

from apiserver.app import Services, create_app
from apiserver.config import ServerConfig
from apiserver.identity import COMPANY
from apiserver.store import popping, queues, task_status, tasks
from apiserver.store.popping import Popper
from apiserver.workers import Worker

POPPER = Popper(worker="host", ip="", claim=None, lease_seconds=120)


class Clock:
    """Real time, moved forward by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def run(path: Path, story: Callable[[Services, Clock], Awaitable[None]], *, data: str = "data") -> None:
    async def tell() -> None:
        clock = Clock()
        config = ServerConfig(
            data=path / data, housekeeping_seconds=0.02, reconcile_seconds=0.05, watchdog_seconds=0.05
        )
        async with create_app(config, now=clock).state.services as services:
            await story(services, clock)

    asyncio.run(tell())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def queued_task(services: Services) -> tuple[str, str]:
    queue = await services.db.write(lambda tx: queues.create(tx, "a queue", company=COMPANY, user="x"))
    task = await services.db.write(lambda tx: tasks.create(tx, {"name": "a task"}, company=COMPANY, user="x"))
    await services.db.write(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
    return queue, task


def test_a_lost_pop_comes_back_to_its_queue_by_itself(tmp_path: Path) -> None:
    async def story(services: Services, clock: Clock) -> None:
        queue, task = await queued_task(services)
        popped = await services.db.write(lambda tx: popping.pop(tx, [queue], POPPER))
        assert popped is not None
        clock.ahead += 121

        async def is_back() -> bool:
            head = await services.db.read(lambda tx: queues.heads(tx, [queue]))
            return head is not None and head.task == task and head.added == popped.added

        await until(is_back)

    run(tmp_path, story)


def test_a_queued_task_in_no_queue_comes_back_by_itself(tmp_path: Path) -> None:
    async def story(services: Services, clock: Clock) -> None:
        queue, task = await queued_task(services)
        await services.db.write(lambda tx: queues.remove(tx, task))
        clock.ahead += 1

        async def is_back() -> bool:
            return await services.db.read(lambda tx: queues.heads(tx, [queue])) is not None

        await until(is_back)

    run(tmp_path, story)


def test_a_silent_task_is_stopped_by_the_watchdog(tmp_path: Path) -> None:
    async def story(services: Services, clock: Clock) -> None:
        _queue, task = await queued_task(services)
        await services.db.write(lambda tx: task_status.start(tx, task, ASKED))
        clock.ahead += 7201

        async def is_stopped() -> bool:
            found = await services.db.read(lambda tx: tasks.row(tx, task, COMPANY))
            return bool(found["status"] == "stopped")

        await until(is_stopped)

    run(tmp_path, story)


def test_a_worker_vanishes_after_its_time_and_not_with_a_restart(tmp_path: Path) -> None:
    async def first(services: Services, clock: Clock) -> None:
        await services.workers.register(Worker(id="w:0", company=COMPANY, user="x", ip="1.1.1.1", timeout=600))
        services.workers.reported(COMPANY, "w:1", user="x", user_name="", ip="1.1.1.1")

    async def second(services: Services, clock: Clock) -> None:
        assert sorted(worker.id for worker in services.workers.alive()) == ["w:0", "w:1"]
        clock.ahead += 601
        assert services.workers.alive() == []

    run(tmp_path, first)
    run(tmp_path, second)


def test_two_addresses_with_one_worker_id_are_marked(tmp_path: Path) -> None:
    async def story(services: Services, clock: Clock) -> None:
        for ip in ("1.1.1.1", "2.2.2.2"):
            worker = services.workers.reported(COMPANY, "w:0", user="x", user_name="", ip=ip)
        assert worker.on_the_wire()["system_tags"] == ["duplicate-id"]
        clock.ahead += 61
        worker = services.workers.reported(COMPANY, "w:0", user="x", user_name="", ip="2.2.2.2")
        assert worker.on_the_wire()["system_tags"] == []

    run(tmp_path, story)
