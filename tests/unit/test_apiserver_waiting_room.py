"""The waiting room: one new entry wakes one seat, and no wake-up is lost with the one who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from apiserver.announcements import EntryGone, PropertiesChanged, QueueChanged, QueueGrew, StatusChanged
from apiserver.waiting import Subject, WaitingRoom


@dataclass(frozen=True)
class Entry:
    task: str
    queue: str


NEWS = Entry("news", "")


class World:
    """Queues in memory, a waiting room, and clients that look and pop."""

    def __init__(self, reservation_seconds: float = 5.0) -> None:
        self.room = WaitingRoom(reservation_seconds=reservation_seconds)
        self.queues: dict[str, list[str]] = {}
        self.looks = 0
        self.news: set[str] = set()  # the queues whose watchers find news

    def add(self, queue: str, task: str) -> None:
        self.queues.setdefault(queue, []).append(task)
        self.room.notice(QueueGrew(queue, task))

    def client(
        self,
        *queues: str,
        seconds: float = 5.0,
        gone: asyncio.Future[None] | None = None,
        watched: tuple[Subject, ...] = (),
    ) -> asyncio.Task[Entry | None]:
        leaving = gone or asyncio.get_running_loop().create_future()

        async def look() -> Entry | None:
            self.looks += 1
            await asyncio.sleep(0)  # as a database would
            if watched and self.news & set(queues):
                return NEWS
            for queue in queues:
                if self.queues.get(queue):
                    return Entry(self.queues[queue].pop(0), queue)
            return None

        return asyncio.create_task(self.room.first(queues, seconds, look, lambda: leaving, watched=watched))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def tell() -> None:
        await asyncio.wait_for(story(), 10)

    asyncio.run(tell())


def test_the_longest_waiting_is_served_first_and_nobody_else_is_disturbed() -> None:
    async def story() -> None:
        world = World()
        clients = [world.client("q") for _ in range(3)]
        await world.settle()
        looks = world.looks
        world.add("q", "t1")
        await world.settle()
        assert clients[0].result() == Entry("t1", "q")
        assert world.looks == looks + 1
        assert not clients[1].done()
        world.add("q", "t2")
        world.add("q", "t3")
        await world.settle()
        assert [client.result() for client in clients[1:]] == [Entry("t2", "q"), Entry("t3", "q")]
        assert world.room.parked == 0

    run(story)


def test_a_wake_up_of_somebody_who_left_is_handed_on() -> None:
    async def story() -> None:
        world = World()
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        leaver, stayer = world.client("q", gone=gone), world.client("q")
        await world.settle()
        gone.set_result(None)
        world.add("q", "t1")
        await world.settle()
        assert leaver.result() is None
        assert stayer.result() == Entry("t1", "q")

    run(story)


def test_a_wake_up_that_found_something_better_is_handed_on() -> None:
    async def story() -> None:
        world = World()
        first = world.client("better", "q")
        second = world.client("q")
        await world.settle()
        world.queues["better"] = ["unannounced"]
        world.add("q", "t1")
        await world.settle()
        assert first.result() == Entry("unannounced", "better")
        assert second.result() == Entry("t1", "q")

    run(story)


def test_an_entry_that_comes_while_somebody_looks_is_not_overlooked() -> None:
    async def story() -> None:
        world = World()
        client = world.client("q")
        await asyncio.sleep(0)  # it has taken its seat and is looking
        world.add("q", "t1")
        await world.settle()
        assert client.result() == Entry("t1", "q")

    run(story)


def test_a_client_that_is_cancelled_leaves_its_wake_up_to_others() -> None:
    async def story() -> None:
        world = World()
        cancelled, stayer = world.client("q"), world.client("q")
        await world.settle()
        world.add("q", "t1")
        cancelled.cancel()
        await world.settle()
        assert cancelled.cancelled()
        assert stayer.result() == Entry("t1", "q")

    run(story)


def test_a_lapsed_or_released_reservation_wakes_the_next() -> None:
    async def story() -> None:
        world = World(reservation_seconds=0.05)
        room = world.room
        assert room.reserve("t1", "q", "me")
        assert not room.reserve("t1", "q", "you")
        assert room.reserve("t1", "q", "me")
        assert room.reserved_for_others("you") == {"t1"}
        assert room.reserved_for_others("me") == frozenset()
        client = world.client("q")
        await world.settle()
        looks = world.looks
        while world.looks == looks:
            await asyncio.sleep(0.01)
        assert room.reserve("t1", "q", "you")
        room.notice(EntryGone("t1"))
        assert room.reserve("t1", "q", "me")
        room.release("t1", "somebody else")
        assert room.reserved_for_others("you") == {"t1"}
        world.queues["q"] = ["t1"]
        room.release("t1", "me")
        await world.settle()
        assert client.result() == Entry("t1", "q")

    run(story)


def test_a_look_that_is_cancelled_or_fails_leaves_its_wake_up_to_others() -> None:
    async def story() -> None:
        world = World()
        leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        looks = 0

        async def look() -> Entry | None:
            nonlocal looks
            looks += 1
            if looks > 1:
                raise RuntimeError("the database is away")
            return None

        failing = asyncio.create_task(world.room.first(["q"], 5, look, lambda: leaving))
        await world.settle()
        stayer = world.client("q")
        await world.settle()
        world.add("q", "t1")
        await world.settle()
        assert isinstance(failing.exception(), RuntimeError)
        assert stayer.result() == Entry("t1", "q")

    run(story)


def test_everybody_who_watches_looks_again_and_nobody_else() -> None:
    async def story() -> None:
        world = World()
        watched = (QueueChanged("q"), PropertiesChanged("c", "w"))
        watching = [world.client("q", watched=watched) for _ in range(3)]
        plain = world.client("q")
        await world.settle()
        looks = world.looks
        world.room.notice(PropertiesChanged("c", "w"))
        world.room.notice(PropertiesChanged("c", "another"))
        await world.settle()
        assert world.looks == looks + 3
        assert not any(client.done() for client in watching)
        world.news.add("q")
        world.room.notice(QueueChanged("q"))
        await world.settle()
        assert [client.result() for client in watching] == [NEWS] * 3
        assert not plain.done()
        plain.cancel()

    run(story)


def test_what_changes_while_somebody_looks_is_not_overlooked() -> None:
    async def story() -> None:
        world = World()
        client = world.client("q", watched=(QueueChanged("q"),))
        await asyncio.sleep(0)  # it has taken its seat and is about to look
        await asyncio.sleep(0)
        world.room.notice(QueueChanged("q"))
        await world.settle()
        assert world.looks == 2
        assert not client.done()
        client.cancel()

    run(story)


def test_who_comes_back_with_news_hands_its_wake_up_for_a_task_on() -> None:
    async def story() -> None:
        world = World()
        watching = [world.client("q", watched=(QueueChanged("q"),)) for _ in range(3)]
        plain = world.client("q")
        await world.settle()
        world.news.add("q")
        world.add("q", "t1")
        world.room.notice(QueueChanged("q"))
        await world.settle()
        assert [client.result() for client in watching] == [NEWS] * 3
        assert plain.result() == Entry("t1", "q")

    run(story)


def test_who_only_watches_is_not_woken_for_tasks_and_leaves_nothing_behind() -> None:
    async def story() -> None:
        world = World()
        client = world.client(watched=(QueueChanged("q"),), seconds=0.05)
        await world.settle()
        world.add("q", "t1")
        assert await client is None
        assert world.looks == 1
        world.room.notice(QueueChanged("q"))  # nobody is there any more

    run(story)


def test_closing_the_room_sends_everybody_home() -> None:
    async def story() -> None:
        world = World()
        client, watching = world.client("q"), world.client(watched=(QueueChanged("q"),))
        await world.settle()
        world.room.close()
        await world.settle()
        assert client.result() is None
        assert watching.result() is None

    run(story)


def test_a_watcher_sees_changes_of_its_tasks_only() -> None:
    async def story() -> None:
        room = WaitingRoom(reservation_seconds=1)
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[None] = loop.create_future()
        with room.watching(["t1"]) as watcher:
            room.notice(StatusChanged("t2"))
            assert not await room.changed(watcher, loop.time() + 0.02, lambda: gone)
            room.notice(StatusChanged("t1"))
            assert await room.changed(watcher, loop.time() + 5, lambda: gone)
            gone.set_result(None)
            assert not await room.changed(watcher, loop.time() + 5, lambda: gone)

    run(story)
