"""How an agent begins, by hand and under a supervisor.

By hand it fails at once and says why. A supervisor would only start it again, over and over, so there it waits by
itself for what a restart cannot cure: a server that is away, a queue that it does not have (yet), another agent that
still holds the worker id. And an agent that fails again and again shortly after its start pauses before the next
attempt (systemd learned that in version 254, supervisord gives up instead).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from agent.api.client import growing_pauses
from agent.config.schema import AgentSettings
from agent.errors import (
    AgentError,
    AlreadyRunning,
    ApiError,
    ConfigError,
    CredentialsRefused,
    GpuSpecError,
    ServerUnreachable,
    UnknownQueue,
    UsageError,
)
from agent.models import WorkerSetup
from agent.worker.identity import Identity, take_identity
from agent.worker.marks import Failures
from agent.worker.poller import Outage
from agent.worker.service import Supervisor
from agent.worker.signals import Stop, unless

log = logging.getLogger(__name__)

T = TypeVar("T")

#: An agent that was ready for this long has started well.
PROVEN_SECONDS = 60.0
LONGEST_WAIT_FOR_ID_SECONDS = 30.0
#: A supervisor does not repeat these (RestartPreventExitStatus in the unit): the next start is a person's.
NOT_REPEATED = (UsageError, ConfigError, CredentialsRefused, GpuSpecError)


async def take_turn(agent: AgentSettings, setup: WorkerSetup, supervisor: Supervisor, stop: Stop) -> Identity | None:
    """Be the one of a worker id; None if told to go while another agent had it."""
    pauses = growing_pauses(0.5, LONGEST_WAIT_FOR_ID_SECONDS)
    is_told = False
    while not stop.no_more.is_set():
        try:
            return take_identity(Path(agent.state_dir).expanduser(), agent, setup)
        except AlreadyRunning as error:
            if not supervisor.is_supervised:
                raise
            if not is_told:
                log.warning("waiting: %s", error, extra={"action": "wait_for_id"})
            is_told = True
            supervisor.status(f"waiting: {error.message}")
        await unless(asyncio.sleep(next(pauses)), stop.no_more)
    return None


@contextlib.contextmanager
def counted(failures: Failures, supervisor: Supervisor) -> Iterator[None]:
    """Count a start under a supervisor, and forget the count when the agent leaves cleanly."""
    try:
        yield
    except NOT_REPEATED:
        failures.remove()
        raise
    else:
        if supervisor.is_supervised:
            failures.remove()


async def back_off(failures: Failures, supervisor: Supervisor, stop: Stop) -> None:
    """Pause if the starts before this one have failed, then count this one."""
    if not supervisor.is_supervised:
        return
    if seconds := failures.pause_seconds:
        text = f"starting again in {seconds:.0f} s after {failures.count} failed starts"
        log.warning(text, extra={"action": "back_off"})
        supervisor.status(text)
        await unless(asyncio.sleep(seconds), stop.next_wish)
    failures.begin()


async def prove(failures: Failures, supervisor: Supervisor) -> None:
    """Forget earlier failures once this agent has been ready for a while."""
    if supervisor.is_supervised:
        await asyncio.sleep(PROVEN_SECONDS)
        failures.remove()


async def when_reachable(
    attempt: Callable[[], Coroutine[Any, Any, T]],
    supervisor: Supervisor,
    stop: Stop,
    *,
    is_over: Callable[[], bool],
    waits: bool,
) -> T | None:
    """What `attempt` answers, or None once there is nothing to attempt. `waits`: until an outage is over."""
    outage = Outage(supervisor.status)
    while not is_over():
        try:
            found = await unless(attempt(), stop.next_wish)
            if found is not None:
                outage.over()
                return found
        except (ServerUnreachable, ApiError, UnknownQueue) as error:
            if not waits or not _may_pass(error):
                raise
            await unless(outage.wait(error), stop.next_wish)
    return None


def _may_pass(error: AgentError) -> bool:
    """A queue may be made later, and a unit that is started before that is to find it then."""
    return error.is_server_fault if isinstance(error, ApiError) else True
