"""The runs that are under way, and the loop that adds to them: first what was left, then one task after the other as
the slots allow.

Each run is a coroutine of its own that sees its task through. What goes wrong in one of them (a server that is away
longer than a call may take, a full disk) ends the coroutine and not the run: recovery picks it up from the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agent.api.client import AsyncClient
from agent.api.queues import Waiting
from agent.errors import AgentError, ApiError, CredentialsRefused, ServerUnreachable
from agent.models import Task
from agent.runner import recovery
from agent.runner.claim import Claimant, first_waiting
from agent.runner.context import RunContext, Running
from agent.runner.give_back import give_back
from agent.runner.lifecycle import give_up, launch, see_through
from agent.runner.rundir import Claim, Runs, about
from agent.steps import Step, reached
from agent.wire import shown
from agent.worker.bars import Bars
from agent.worker.health import Health
from agent.worker.listening import Listening
from agent.worker.poller import Outage, Poller
from agent.worker.signals import Stop, unless
from agent.worker.slots import Slot, Slots

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Pause after a task that somebody else took first.
AFTER_A_MISS_SECONDS = 0.2
#: How often queues that can be offered nothing are looked at, to know how long their tasks wait.
LOOK_AT_BLOCKED_SECONDS = 5.0


class Undivided:
    """What must not be left half done: a claim between the pop and the start of its executor, one at a time."""

    def __init__(self) -> None:
        self._done = asyncio.Event()
        self._done.set()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._done.clear()
        try:
            yield
        finally:
            self._done.set()

    async def wait(self) -> None:
        """Return when nothing is half done."""
        await self._done.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What the crew works with. `context` is that of the agent itself; `below` is where a sub-worker gets its own from,
    for the time of one run. `say` is told what the agent does, `changed` that runs have begun or ended.
    """

    agent: str
    api: AsyncClient
    runs: Runs
    stop: Stop
    slots: Slots
    poller: Poller
    listening: Listening
    bars: Bars
    health: Health
    context: RunContext
    below: Callable[[RunContext, Slot], contextlib.AbstractAsyncContextManager[RunContext]]
    say: Callable[[str], None]
    changed: Callable[[], None]
    reserves: bool = False


class Crew:
    """All runs of an agent."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        self._members: dict[Path, asyncio.Task[None]] = {}
        self._claims: dict[Path, tuple[Claim, Task]] = {}
        self._trouble: AgentError | OSError | None = None
        self._change = asyncio.Event()
        self._blocked_since: dict[int, float] = {}
        self._looked_at_blocked = -float("inf")
        self.undivided = Undivided()
        shift.bars.listen(self._change.set)

    @property
    def listening(self) -> Listening:
        """The queues that tasks are taken from."""
        return self._shift.listening

    async def work(self, outage: Outage) -> None:
        """Until told to go: first what was left behind, by a previous agent or by trouble, then what waits in queues.

        Returns when nothing runs any more, which a drain and the wish to end the tasks bring about.
        """
        stop = self._shift.stop
        while not stop.leave.is_set():
            try:
                await self._recover()
                if stop.drain.is_set():
                    await self._until_all_ended()
                    self._raise_trouble()
                    return
                while not stop.no_more.is_set() and self._trouble is None:
                    await self._next(outage)
                self._raise_trouble()
            except CredentialsRefused:
                raise
            except (ServerUnreachable, ApiError, OSError) as error:
                await unless(outage.wait(error), stop.next_wish)
        await self._until_all_ended()
        if isinstance(self._trouble, CredentialsRefused):
            raise self._trouble

    async def _until_all_ended(self) -> None:
        while self._members:
            await asyncio.wait(tuple(self._members.values()))

    async def dismiss(self) -> None:
        """Let go of all runs; their tasks run on."""
        members = tuple(self._members.values())
        for member in members:
            member.cancel()
        if members:
            await asyncio.wait(members)

    async def _recover(self) -> None:
        shift = self._shift
        with self.undivided():
            found = await recovery.recover(self._context_for, shift.runs, agent=shift.agent, under_way=self._members)
        for running in found:
            self._begin(shift.slots.adopt(running.claim), running)

    def _context_for(self, claim: Claim) -> RunContext:
        return replace(self._shift.context, worker=claim.worker)

    async def _next(self, outage: Outage) -> None:
        """One round: wait for a task that could start, and start it; or for something that changes what could."""
        shift = self._shift
        self._change.clear()
        await self._look_at_blocked()
        if not shift.bars:  # among them a driver that hangs, which slots may want to ask
            await self._until_change(self._look_at_slots())
        shift.changed()
        if not outage.is_on:
            shift.say(self._doing())
        waiting = await self._until_change(self._wait_for_one(outage))
        if waiting is None or not await self._until_change(self._is_still_fit()):
            return
        with self.undivided():
            await self._start(waiting)

    async def _look_at_slots(self) -> bool:
        await self._shift.slots.look(self._blocked_since)
        return True

    async def _is_still_fit(self) -> bool:
        """Whether a task can be started now: the server may have held the question for half a minute."""
        await self._shift.health.look()
        return not self._shift.bars and await self._look_at_slots()

    async def _wait_for_one(self, outage: Outage) -> Waiting | None:
        shift = self._shift
        listening = shift.listening
        offers_something = any(self._offers(place) for place in range(len(listening.queues)))
        if self._members and not offers_something and not shift.slots.listens_while_full:
            await asyncio.get_running_loop().create_future()  # nothing can start before something ends
        waiting = await shift.poller.next_waiting(lambda queue: self._offers(listening.place_of(queue.id)))
        outage.over()
        return waiting

    def _offers(self, place: int) -> bool:
        return not self._shift.bars and self._shift.slots.offers(place)

    async def _until_change(self, work: Awaitable[T]) -> T | None:
        """The result of `work`; None when a run has ended, when the slots want to be looked at, or on a wish to go."""
        stop = self._shift.stop
        working = asyncio.ensure_future(work)
        ending = [asyncio.create_task(event.wait()) for event in (stop.no_more, self._change)]
        try:
            await asyncio.wait(
                (working, *ending),
                timeout=self._longest_wait(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            return working.result() if working.done() else None
        finally:
            for task in (working, *ending):
                task.cancel()

    def _longest_wait(self) -> float | None:
        """Until the hours change, or the slots want to be looked at again."""
        seconds = min(self._shift.slots.look_again_seconds or math.inf, self._shift.poller.seconds_to_boundary())
        return None if seconds == math.inf else seconds

    async def _start(self, waiting: Waiting) -> None:
        shift = self._shift
        place = shift.listening.place_of(waiting.queue)
        slot = shift.slots.take(place, waiting) if self._offers(place) else None
        if slot is None:
            return
        is_taken = False
        try:
            claimant = Claimant(worker=slot.worker, agent=shift.agent, devices=slot.devices)
            claimed = await shift.poller.claim(waiting, claimant)
            if claimed is None:
                await unless(asyncio.sleep(AFTER_A_MISS_SECONDS), shift.stop.no_more)
            elif shift.stop.no_more.is_set():
                reason = "given back by an agent that leaves"
                features = shift.listening.source.features
                await give_back(shift.api, features, claimed.run, claimed.claim, reason=reason)
            else:
                running = await launch(self._context_in(slot), claimed)
                if running is not None:
                    shift.health.began(running.run)
                    self._begin(slot, running)
                    is_taken = True
        finally:
            self._blocked_since.pop(place, None)
            if not is_taken:
                shift.slots.release(slot)

    def _context_in(self, slot: Slot) -> RunContext:
        base = self._shift.context
        setup = base.executor_setup
        return replace(
            base,
            worker=slot.worker,
            leases=slot.leases,
            executor_setup=replace(
                setup,
                worker_id=slot.worker,
                environment={**setup.environment, **slot.environment},
                leases=slot.leases,
            ),
        )

    def _begin(self, slot: Slot, running: Running) -> None:
        path = running.run.path
        self._claims[path] = (running.claim, running.task)
        self._members[path] = asyncio.create_task(self._see_through(slot, running))
        self._shift.say(self._doing())
        self._shift.changed()

    async def _see_through(self, slot: Slot, running: Running) -> None:
        shift, path = self._shift, running.run.path
        try:
            async with contextlib.AsyncExitStack() as stack:
                context = self._context_in(slot)
                if not slot.is_own:
                    context = await stack.enter_async_context(shift.below(context, slot))
                await see_through(context, running)
            shift.health.ended(running.run)
            await asyncio.to_thread(running.run.remove)  # a workspace may have a hundred thousand files
            reached(Step.RUN_REMOVED)
        except (AgentError, OSError) as error:
            self._trouble = self._trouble or error
        except Exception as error:  # a fault of ours with this one run must not cost the next ones
            log.exception("run %s cannot be seen through", path.name, extra=about(running.claim))
            await self._give_up(slot, running, error)
        finally:
            del self._members[path]
            del self._claims[path]
            shift.slots.release(slot)
            self._change.set()

    async def _give_up(self, slot: Slot, running: Running, error: Exception) -> None:
        try:
            await give_up(self._context_in(slot), running, f"internal error of the agent: {error!r}")
            log.warning("its files are kept in %s", self._shift.runs.set_aside(running.run))
        except (AgentError, OSError) as trouble:
            self._trouble = self._trouble or trouble

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    async def _look_at_blocked(self) -> None:
        """Note since when tasks wait in queues that nothing was offered to; only asked where that changes anything.

        Such a task still waits when enough GPUs are free at last: its turn lasts until it has started.
        """
        shift, loop = self._shift, asyncio.get_running_loop()
        if not shift.reserves or not self._members or loop.time() - self._looked_at_blocked < LOOK_AT_BLOCKED_SECONDS:
            return
        self._looked_at_blocked = loop.time()
        listening = shift.listening
        for place, queue in enumerate(listening.queues):
            is_behind = not shift.slots.offers(place) or place in self._blocked_since
            may_pull = not queue.is_gone and shift.poller.word_on(queue.id).opens
            if is_behind and may_pull and await first_waiting(shift.api, listening.source, [queue.id]) is not None:
                self._blocked_since.setdefault(place, loop.time())
            else:
                self._blocked_since.pop(place, None)

    def _doing(self) -> str:
        if not self._claims:
            why = self._shift.bars.stand.tag or self._shift.slots.why_not
            names = ", ".join(queue.name for queue in self._shift.listening.queues)
            return f"waiting: {why}" if why else f"idle, queues {names}"
        if len(self._claims) > 1:
            return f"running {len(self._claims)} tasks"
        claim, task = next(iter(self._claims.values()))
        name = f" ({shown(task.name)})" if task.name else ""
        return f"running task {claim.task}{name}, queue {claim.queue_name}"
