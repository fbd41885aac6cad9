"""Reports what the machine does while a task runs, as scalars of the task: `:monitor:machine` and `:monitor:gpu`.

The x axis is seconds since the task was launched, as the ClearML SDK has it. A report that cannot be sent is dropped:
these are measurements, not the task's data.
"""

from __future__ import annotations

import asyncio
import logging
import time

from agent.api import events
from agent.api.client import AsyncClient
from agent.errors import AgentError
from agent.models import Json
from agent.runner.machine import MachineSampler

log = logging.getLogger(__name__)


def scalar_events(stats: Json, *, task: str, worker: str, iteration: int, at_ms: int) -> list[Json]:
    """One scalar per reading; lists (one value per GPU) get a variant per index."""
    found: list[Json] = []
    for key, value in stats.items():
        metric = ":monitor:gpu" if key.startswith("gpu_") else ":monitor:machine"
        is_list = isinstance(value, list)
        for index, number in enumerate(value if is_list else [value]):
            if number is None:
                continue
            variant = f"gpu_{index}_{key.removeprefix('gpu_')}" if metric == ":monitor:gpu" else key
            found.append(
                events.scalar_event(
                    task, worker, metric=metric, variant=variant, iteration=iteration, value=float(number), at_ms=at_ms
                )
            )
    return found


async def report_resources(
    api: AsyncClient, sampler: MachineSampler, *, task: str, worker: str, every_seconds: float
) -> None:
    """Send the machine's readings every so often, until cancelled."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(every_seconds)
        iteration = int(time.monotonic() - started)
        batch = scalar_events(
            await asyncio.to_thread(sampler.sample),
            task=task,
            worker=worker,
            iteration=iteration,
            at_ms=int(time.time() * 1000),
        )
        try:
            await api.send(events.add_batch(batch))
        except AgentError as error:
            log.debug("resource readings of task %s were not sent: %s", task, error.message)
