"""Reports what the machine does while a task runs, as scalars of the task: `:monitor:machine` and `:monitor:gpu`.

The x axis is seconds since the task was claimed, which an adopted task goes on with. A report that
cannot be sent is dropped: these are measurements, not the task's data.
"""

from __future__ import annotations

import asyncio
import logging
import time

from agent.api import events
from agent.api.client import AsyncClient
from agent.errors import AgentError
from agent.models import Json
from agent.runner.aside import aside
from agent.runner.machine import MachineSampler

log = logging.getLogger(__name__)

SHORTEST_INTERVAL_SECONDS = 0.1


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
    api: AsyncClient, sampler: MachineSampler, *, task: str, worker: str, every_seconds: float, started_ms: int
) -> None:
    """Send the machine's readings every so often, until cancelled. `started_ms` is where the x axis begins."""
    while True:
        await asyncio.sleep(max(every_seconds, SHORTEST_INTERVAL_SECONDS))
        try:
            stats = await aside(sampler.sample)
            now_ms = int(time.time() * 1000)
            iteration = max(0, (now_ms - started_ms) // 1000)
            batch = scalar_events(stats, task=task, worker=worker, iteration=iteration, at_ms=now_ms)
            await api.send(events.add_batch(batch))
        except (AgentError, OSError) as error:
            log.debug("resource readings of task %s were not sent: %s", task, error)
