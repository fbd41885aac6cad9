"""What the runner works with, with everything that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from support.settings import settings_for

from agent.api.server import Features
from agent.models import ExecutorSetup
from agent.runner.abort import StatusBoard
from agent.runner.context import RunContext
from agent.runner.machine import MachineSampler
from agent.runner.rundir import Claim
from agent.runtimes.host import HostRuntime
from agent.states import RunPhase


def run_context(
    api: Any, features: Features | None = None, *, worker: str = "w", poll_seconds: float = 1.0, **more: Any
) -> RunContext:
    """The context of a worker that is silent about what it runs; `more` are fields of it."""
    features = features or Features()

    async def announce(task: str | None, queue: str | None) -> None:
        return

    given = {
        "runtime": HostRuntime(),
        "settings": settings_for(),
        "executor_setup": ExecutorSetup(settings={}, worker_id=worker),
        "executor_environ": {},
        "sampler": MachineSampler(),
        "announce": announce,
        **more,
    }
    board = StatusBoard(api, features, poll_seconds=poll_seconds)
    return RunContext(api=api, features=features, board=board, worker=worker, **given)


def claim_of(task: str = "t1", **more: Any) -> Claim:
    """A claim of worker `w` that came from the queue `q1`; `more` are fields of it."""
    given = {"attempt": 0, "worker": "w", "queue": "q1", "queue_name": "train", "token": "x", "claimed_at_ms": 1}
    return Claim(task=task, **{**given, "phase": RunPhase.STARTED, **more})
