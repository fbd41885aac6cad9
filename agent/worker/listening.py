"""The queues that a worker listens to: found by name or id once, and followed through renaming, deletion and return.

A queue is listened to by its id, so renaming changes nothing but what is said. One that is deleted is left out; if a
queue of that name is made again later, it is the one that is meant.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.api import queues, workers
from agent.api.client import AsyncClient
from agent.api.queues import Queue, Steering
from agent.errors import ApiError, UnknownQueue
from agent.runner.claim import Source
from agent.wire import shown

log = logging.getLogger(__name__)

LOOKS_LIKE_AN_ID = re.compile(r"^[-a-f0-9]{30,}$")
LOOK_FOR_LOST_SECONDS = 10.0


async def resolve_queues(api: AsyncClient, wanted: Sequence[str], *, create: bool) -> tuple[Queue, ...]:
    """The queues that names or ids stand for, in order; without any, the server's default queue.

    Names are compared in any letter case. Raises UnknownQueue, with names that are close, unless `create`.
    """
    if not wanted:
        return (await _default_queue(api),)
    known = await api.send(queues.every())
    found = []
    for name in wanted:
        queue = _find(known, name)
        if queue is None and create:
            queue = Queue(await api.send(queues.create(name)), name)
        if queue is None:
            raise UnknownQueue(f"the server has no queue {name!r}", hint=_suggestion(name, known))
        if queue not in found:
            found.append(queue)
    return tuple(found)


async def _default_queue(api: AsyncClient) -> Queue:
    try:
        identifier = await api.send(queues.default())
    except ApiError:
        known = await api.send(queues.every())
        queue = _find(known, "default")
        if queue is None:
            raise UnknownQueue(
                "no --queue was given and the server has no default queue", hint=_suggestion("default", known)
            ) from None
        return queue
    described = await api.send(queues.by_ids([identifier]))
    return described[0] if described else Queue(identifier, "default")


def _find(known: Sequence[Queue], wanted: str) -> Queue | None:
    wanted = shown(wanted)  # as the names of queues are kept
    if LOOKS_LIKE_AN_ID.match(wanted):
        return next((queue for queue in known if queue.id == wanted), None)
    exact = [queue for queue in known if queue.name == wanted]
    alike = exact or [queue for queue in known if queue.name.lower() == wanted.lower()]
    return alike[0] if alike else None


def _suggestion(wanted: str, known: Sequence[Queue]) -> str:
    close = difflib.get_close_matches(wanted, [queue.name for queue in known], n=3)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)}? --create-queue makes it"
    names = ", ".join(sorted(queue.name for queue in known)[:10]) or "none"
    return f"It has: {names}. --create-queue makes a new one"


class Listening:
    """The queues of a worker at this moment, in order of preference.

    `on_change` is called with the ids when a queue has come in place of a deleted one.
    """

    def __init__(
        self,
        api: AsyncClient,
        source: Source,
        *,
        worker: str,
        on_change: Callable[[tuple[str, ...]], None] = lambda ids: None,
    ) -> None:
        self._api = api
        self._worker = worker
        self._on_change = on_change
        self._has_properties = True
        self._look_again = 0.0
        self.source = source

    @property
    def queues(self) -> tuple[Queue, ...]:
        return self.source.queues

    @property
    def misses_some(self) -> bool:
        """Whether a queue has been deleted and may come back."""
        return any(queue.is_gone for queue in self.queues)

    def place_of(self, queue_id: str) -> int:
        """Which of the queues it is, counted from 0 in order of preference, whatever its id has become."""
        return next((at for at, queue in enumerate(self.queues) if queue.id == queue_id), 0)

    async def ask(self) -> Steering:
        """What is said now of the queues and the worker, for servers that do not tell it by themselves."""
        found = {queue.id: queue for queue in await self._api.send(queues.by_ids(self.source.ids))}
        listed = [found.get(queue.id) or replace(queue, is_gone=True) for queue in self.queues]
        return Steering(queues=tuple(listed), properties=await self._properties())

    async def _properties(self) -> dict[str, workers.Property]:
        if not self._has_properties:
            return {}
        try:
            return await self._api.send(workers.runtime_properties(self._worker))
        except ApiError as error:
            if error.is_server_fault:
                raise
            log.info(
                "this server has no runtime properties: queue tags and working hours steer the worker, `force` cannot"
            )
            self._has_properties = False
            return {}

    def hear(self, steering: Steering) -> None:
        """Take in what the server has just told of the queues."""
        told = {queue.id: queue for queue in steering.queues}
        for old in self.queues:
            new = told.get(old.id)
            if new and new.is_gone and not old.is_gone:
                log.warning("queue %s has been deleted", old.name, extra={"action": "queue_gone"})
            elif new and new.name and new.name != old.name:
                log.info("queue %s is now called %s", old.name, new.name, extra={"action": "queue_renamed"})
        heard = (replace(new, name=new.name or old.name) if (new := told.get(old.id)) else old for old in self.queues)
        self.source = replace(self.source, queues=tuple(heard))

    async def look_for_lost(self) -> None:
        """Take a queue that was made anew under the name of a deleted one for that one. Looks every now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._look_again or not self.misses_some:
            return
        self._look_again = now + LOOK_FOR_LOST_SECONDS
        known = await self._api.send(queues.every())
        back = [(_find(known, queue.name) if queue.is_gone else None) or queue for queue in self.queues]
        if tuple(back) != self.queues:
            names = ", ".join(new.name for old, new in zip(self.queues, back, strict=True) if new != old)
            log.info("queue %s is there again", names, extra={"action": "queue_back"})
            self.source = replace(self.source, queues=tuple(back))
            self._on_change(self.source.ids)
