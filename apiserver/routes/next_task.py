"""Taking the next task: the call that every agent makes, and in which most of them wait.

A look reads everything that the call asks about in one transaction: the queues, what steers the worker, the first
entry. A held call looks once and then sleeps in the waiting room until there is a reason to look again.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import errors
from ..announcements import PropertiesChanged, QueueChanged
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..fields import Fields
from ..query import Document
from ..store import popping, queues, steering, tasks
from ..store.database import Session
from ..store.popping import Popper
from ..store.queues import Entry
from ..store.steering import Steering, Watch
from ..waiting import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the caller wants."""

    queues: tuple[str, ...]
    is_list: bool
    wait: float
    peek: bool
    task: str | None
    claim: str | None
    watch: Watch | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look saw."""

    tags: list[Document]
    head: Entry | None
    steering: Steering | None
    moment: float
    is_news: bool  # the steering is no longer what the caller knows


#: Found instead of an entry: the steering has changed. It lies in no queue, so it uses up no wake-up.
NEWS = Entry(task="", queue="", added="")


@endpoint("queues.get_next_task")
async def get_next_task(call: Call, data: Fields) -> Reply:
    """Pop the first task of the first queue that has one.

    Ours, announced as `get_next_task.wait`, `.claim` and `.watch`: `queues` in order of preference, `wait` to be held
    until something is there, `peek` to be shown the entry and have it kept for a moment, `claim` to repeat a named pop
    whose reply was lost, `watch` to be told at once, instead of a task, when what steers a worker is not what it knows.
    """
    looks = Looks(call, _ask(call, data))
    found = await looks.result()
    reply = looks.reply(found)
    if found is not None and data.flag("get_task_info", False):
        reply["task_info"] = await call.read(lambda tx: _task_info(tx, found.task, call.company))
    return reply


def _ask(call: Call, data: Fields) -> Ask:
    watch = _watch(Fields(data.mapping("watch"))) if "watch" in data else None
    return Ask(
        queues=_queues_asked(data, may_be_empty=watch is not None),
        is_list="queues" in data,
        wait=min(data.number("wait", 0.0, least=0), call.services.config.max_wait_seconds),
        peek=data.flag("peek", False),
        task=data.text_or_none("task"),
        claim=data.text_or_none("claim"),
        watch=watch,
    )


def _watch(data: Fields) -> Watch:
    watched = tuple(dict.fromkeys(data.strings("queues")))
    return Watch(worker=data.ident("worker"), queues=watched, known=data.text_or("known", ""))


def _queues_asked(data: Fields, *, may_be_empty: bool) -> tuple[str, ...]:
    if "queues" not in data:
        return (data.ident("queue"),)
    if may_be_empty:
        return tuple(dict.fromkeys(data.strings("queues")))
    return tuple(data.idents("queues"))


def _task_info(tx: Session, task: str, company: str) -> Document:
    return {"company": company, "user": tasks.row(tx, task, company)["user"]}


class Looks:
    """The looks of one call, of which the last is kept for the reply."""

    def __init__(self, call: Call, ask: Ask) -> None:
        self._call = call
        self._ask = ask
        self._room = call.services.waiting
        self._holder = call.connection if ask.claim is None else ask.claim
        self._seen: Seen

    async def result(self) -> Entry | None:
        """An entry, waited for as long as the caller wants; none when there are news instead."""
        call, ask = self._call, self._ask
        look = self._peek if ask.peek else self._pop
        if ask.wait <= 0 or call.disconnected is None:
            return _without_news(await look())
        leaving = call.disconnected()
        sat = self._room.first(ask.queues, ask.wait, look, call.disconnected, watched=self._subjects())
        found = _without_news(await sat)
        if found is not None and leaving.done():
            await self._undo(found)
        return found

    def _subjects(self) -> tuple[Subject, ...]:
        watch = self._ask.watch
        if watch is None:
            return ()
        return (PropertiesChanged(self._call.company, watch.worker), *map(QueueChanged, watch.queues))

    async def _undo(self, found: Entry) -> None:
        """It was found for a client that is not there any more."""
        if self._ask.peek:
            self._room.release(found.task, self._holder)
        else:
            await self._call.write(lambda tx: popping.give_back(tx, found))

    async def _peek(self) -> Entry | None:
        while True:
            seen = await self._look(self._room.reserved_for_others(self._holder))
            if seen.is_news:
                return NEWS
            head = seen.head
            if head is None or self._room.reserve(head.task, head.queue, self._holder):
                return head

    async def _pop(self) -> Entry | None:
        call, ask = self._call, self._ask
        seen = await self._look(frozenset())
        if seen.is_news:
            return NEWS
        if not ask.queues or (ask.task is None and seen.head is None):
            return None  # the usual answer, without troubling the writer
        popper = Popper(
            worker=call.worker, ip=call.ip, claim=ask.claim, lease_seconds=call.services.config.pop_lease_seconds
        )
        return await call.write(lambda tx: popping.pop(tx, ask.queues, popper, named=ask.task))

    async def _look(self, reserved: frozenset[str]) -> Seen:
        self._seen = await self._call.read(lambda tx: _see(tx, self._ask, self._call.company, reserved))
        return self._seen

    def reply(self, found: Entry | None) -> Reply:
        """What is told to the caller."""
        reply: Reply = {"queues": self._seen.tags} if self._ask.is_list else {}
        if self._seen.steering is not None:
            moment = self._call.services.now() if found is None else self._seen.moment
            reply["steering"] = self._seen.steering.on_the_wire(moment)
        if found is not None:
            reply |= {"entry": found.on_the_wire, "queue": found.queue}
        return reply


def _without_news(found: Entry | None) -> Entry | None:
    return None if found is NEWS else found


def _see(tx: Session, ask: Ask, company: str, reserved: frozenset[str]) -> Seen:
    watch = ask.watch
    wanted = ask.queues if watch is None else tuple(dict.fromkeys((*ask.queues, *watch.queues)))
    described = queues.described(tx, wanted, company)
    unknown = [queue_id for queue_id in ask.queues if queue_id not in described]
    if unknown and watch is None:
        raise errors.INVALID_QUEUE_ID(ids=unknown, company=company)
    steers = None if watch is None else steering.read(tx, watch, described, company)
    there = [] if ask.task is not None and not ask.peek else [known for known in ask.queues if known in described]
    return Seen(
        tags=[_tags(described.get(queue_id) or queues.gone(queue_id)) for queue_id in ask.queues],
        head=queues.heads(tx, there, without=reserved),
        steering=steers,
        moment=tx.moment,
        is_news=steers is not None and watch is not None and steers.mark(tx.moment) != watch.known,
    )


def _tags(described: Document) -> Document:
    return {"id": described["id"], "tags": described["tags"]}
