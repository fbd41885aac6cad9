"""What the end of the working hours means for a task that runs (`agent.at_closing`): let it finish, or end it after a
grace, and then perhaps queue it again.

Only hours close in this sense. A queue tag or a property that says "off" keeps further tasks away, and one that says
"on" keeps the worker open beyond its hours; so these are asked for again before anything is ended.
"""

from __future__ import annotations

import asyncio
import contextlib

from agent.config.schema import AtClosingSettings
from agent.errors import AgentError
from agent.runner.outcome import StopCause
from agent.runner.rundir import Claim
from agent.worker.gate import Word
from agent.worker.poller import Poller

LOOK_SECONDS = 15.0

CAUSES = {"stop": StopCause.CLOSING, "requeue": StopCause.CLOSING_REQUEUE}


class Closing:
    """Called with a claim, returns when its task is to be ended because the hours are over."""

    def __init__(self, poller: Poller, wanted: AtClosingSettings) -> None:
        self._poller = poller
        self._cause = CAUSES.get(wanted.task)
        self._grace = wanted.grace_seconds

    async def __call__(self, claim: Claim) -> StopCause:
        loop = asyncio.get_running_loop()
        closed_at: float | None = None
        while True:
            if self._cause is None:
                await loop.create_future()  # until the task has ended
            if not await self._is_closed(claim):
                closed_at = None
                await asyncio.sleep(min(LOOK_SECONDS, self._poller.seconds_to_boundary()))
                continue
            closed_at = loop.time() if closed_at is None else closed_at
            left = closed_at + self._grace - loop.time()
            if left <= 0 and self._cause is not None:
                return self._cause
            await asyncio.sleep(min(LOOK_SECONDS, left))

    async def _is_closed(self, claim: Claim) -> bool:
        if self._poller.word_on(claim.queue) is not Word.CLOSED:
            return False
        with contextlib.suppress(AgentError):  # a server that is away has not opened the worker
            await self._poller.keep_up()
        return self._poller.word_on(claim.queue) is Word.CLOSED
