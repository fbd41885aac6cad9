"""The wishes of whoever ends the agent, as events that loops can wait on.

| signal       | wish     | what happens                                                                        |
|--------------|----------|-------------------------------------------------------------------------------------|
| TERM         | leave    | go now; a running task runs on, and the next agent of this worker id adopts it      |
| INT          | end_task | end the task, report it as stopped, then go                                         |
| USR1         | drain    | finish the task, take no other, then go                                             |
| HUP          | reread   | read the configuration again (`reload.py`)                                          |

A later wish may be a stronger one: a draining agent still leaves on TERM, and still ends its task on INT. HUP is also
what a terminal sends when it is closed, so an agent that has one leaves on it, unless who started it (nohup) wanted it
to be ignored.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent.worker.wishes import WISHES

T = TypeVar("T")

LONGEST_WAIT_OF_INTERRUPT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`end_task` and `anew` imply `leave`; any of these and `drain` imply `no_more`: no further task is taken.

    `anew` is to go and to begin anew in the same process; who leaves on another wish meanwhile does not.
    """

    leave: asyncio.Event = field(default_factory=asyncio.Event)
    end_task: asyncio.Event = field(default_factory=asyncio.Event)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    no_more: asyncio.Event = field(default_factory=asyncio.Event)
    reread: asyncio.Event = field(default_factory=asyncio.Event)
    anew: asyncio.Event = field(default_factory=asyncio.Event)

    def wish_leave(self) -> None:
        self.anew.clear()
        self.leave.set()
        self.no_more.set()

    def wish_end_of_task(self) -> None:
        self.end_task.set()
        self.wish_leave()

    def wish_anew(self) -> None:
        if not self.leave.is_set():
            self.wish_leave()
            self.anew.set()

    def wish_drain(self) -> None:
        self.drain.set()
        self.no_more.set()

    @property
    def next_wish(self) -> asyncio.Event:
        """What ends a pause: any wish, and once the agent drains only the one to leave."""
        return self.leave if self.drain.is_set() else self.no_more


def listen_for_stop(loop: asyncio.AbstractEventLoop, *, interrupt_waits: bool = False) -> Stop:
    """From here on these signals are wishes, not deaths. They have been kept waiting until now (`keep_waiting`).

    `interrupt_waits`: INT still has to wait, because ending a task that is not adopted yet would leave it unreported;
    until `hear_interrupt`, and no longer than some seconds.
    """
    stop = Stop()
    loop.add_signal_handler(signal.SIGTERM, stop.wish_leave)
    loop.add_signal_handler(signal.SIGINT, stop.wish_end_of_task)
    loop.add_signal_handler(signal.SIGUSR1, stop.wish_drain)
    if not has_terminal():
        loop.add_signal_handler(signal.SIGHUP, stop.reread.set)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.wish_leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(WISHES) - {signal.SIGINT} if interrupt_waits else WISHES)
    if interrupt_waits:
        loop.call_later(LONGEST_WAIT_OF_INTERRUPT_SECONDS, hear_interrupt)
    return stop


def keep_for_later(loop: asyncio.AbstractEventLoop) -> list[int]:
    """From here on the signals are for the agent that this process becomes: the kernel keeps them.

    What it has delivered before, and the loop has not looked at yet, is in the returned list once the loop has ended.
    """
    late: list[int] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, WISHES)
    for number in WISHES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, late.append, number)
    return late


def leave_signals_to_the_loop() -> None:
    """In every other thread: a signal is for the thread of the loop, also when that wants it to wait.

    A thread takes a moment to be gone after it was joined, and would take it then, when nobody handles it any more.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, WISHES)


def hear_interrupt() -> None:
    """Let a SIGINT that had to wait through."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def has_terminal() -> bool:
    """Whether this process has a terminal that may be closed under it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def unless(work: Coroutine[Any, Any, T], wish: asyncio.Event) -> T | None:
    """The result of `work`, or None as soon as `wish` is there."""
    working = asyncio.ensure_future(work)
    wishing = asyncio.create_task(wish.wait())
    try:
        await asyncio.wait((working, wishing), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        wishing.cancel()
        working.cancel()
