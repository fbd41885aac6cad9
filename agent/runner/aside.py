"""Calls that may never return: a driver or a disk that hangs.

`asyncio.to_thread` is not for these. Its threads are few, and a process does not end before all of them have.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def aside(call: Callable[[], T]) -> asyncio.Future[T]:
    """What `call` answers, from a thread of its own that nobody waits for, not even the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]  # of the call, which did not fail
        else:
            answer.set_exception(error)
            answer.exception()  # whoever does not ask any more is not to be told by a warning

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return answer


class Question:
    """Something that is asked again and again, one at a time, and not again while it owes an answer."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owed: asyncio.Future[Any] | None = None

    async def ask(self, call: Callable[[], T], *, seconds: float) -> T:
        """A fresh answer. Raises TimeoutError where there is none within `seconds`."""
        async with asyncio.timeout(seconds), self._lock:
            if self._owed is not None:
                await asyncio.wait((self._owed,))
            answer = self._owed = aside(call)
            await asyncio.wait((answer,))
            self._owed = None
        result: T = answer.result()
        return result
