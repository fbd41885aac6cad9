"""The request to stop, as a value that loops can wait on.

Python runs signal handlers between two instructions of the main thread, so a handler that raises can strike in the
middle of anything, a lock or a rename included. Ours only notes the wish and writes a byte into a pipe, which every
`poll` of this process has on its list. SIGCHLD takes the same road: the end of a child is noticed when it happens.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class StopRequested(Exception):
    """Somebody asked for the end while something was being set up."""


class StopSignal:
    """SIGTERM and SIGINT as a flag plus a descriptor to poll; a second request changes nothing.

    `tell` is called as the first reaction to the first request, wherever this process happens to be; it must not raise.
    """

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self.requested = False
        self._tell = tell
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._former: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._former[number] = signal.signal(number, self._note)
        self._former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _ignore)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._reading)
        os.close(self._writing)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first, self.requested = not self.requested, True
        if is_first and self._tell is not None:
            self._tell()

    def fileno(self) -> int:
        """Readable when a signal has arrived; read it empty with `clear`."""
        return self._reading

    def clear(self) -> None:
        """Forget the wake-ups so far; `requested` stays as it is."""
        try:
            while os.read(self._reading, 4096):
                pass
        except BlockingIOError:
            pass

    def check(self) -> None:
        """Raise StopRequested where set-up can be left cleanly."""
        if self.requested:
            raise StopRequested

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a signal; raises like `check`."""
        self.check()
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        poller.poll(seconds * 1000)
        self.clear()
        self.check()


def _ignore(number: int, frame: FrameType | None) -> None:
    """SIGCHLD needs a handler for the wake-up byte to be written."""
