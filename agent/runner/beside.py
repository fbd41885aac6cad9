"""Work beside other work, for as long as a block takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


async def is_set(event: asyncio.Event) -> None:
    """Return once it is."""
    await event.wait()


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` while the block runs; cancel what is left of it at the end. Its failure does not end the block."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))  # unlike awaiting the task itself, this cannot swallow a cancellation of ours


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a side loop ended: %s", error, exc_info=error)
