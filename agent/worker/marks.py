"""What a daemon leaves on the disk for the next one of its worker id, beside the record of who holds the id.

`<worker id>.failures` counts the starts in a row that came to nothing, `<worker id>.draining` says that the agent is to
finish its task and go, `<worker id>.health` what was wrong with its GPUs. All carry the moment they were made, in
seconds since boot, so that a clock that is set means nothing to them; a mark of an earlier boot does not count, because
a boot is a new beginning.

`<worker id>.paused` is an operator's word, and stays until he takes it back, whatever is started again meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from agent.files import read_json, sync_directory, write_json
from agent.models import Json
from agent.wire import number, whole

log = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 300.0
#: Who comes back later than this was not started again by a supervisor that keeps trying.
FORGET_SECONDS = 3600.0
#: A draining agent that left goes on draining if it is started again within this time (a restart). Whoever starts it
#: later wants it to work.
RESTART_SECONDS = 60.0


class Mark:
    """One file; a disk that cannot take it costs the mark, not the agent."""

    def __init__(self, record: Path, kind: str) -> None:
        self.path = record.with_suffix(f".{kind}")

    def write(self, **values: Any) -> None:
        try:
            write_json(self.path, {**values, "boot": _boot_id(), "at": since_boot()}, durable=True)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path, error)

    def read(self) -> Json | None:
        """Its content, with `age` in seconds; None if there is none of this boot."""
        try:
            found = read_json(self.path)
        except OSError as error:
            log.warning("%s cannot be read: %s", self.path, error)
            return None
        at = number(found.get("at")) if found else None
        if not found or found.get("boot") != _boot_id() or at is None:
            return None
        return {**found, "age": since_boot() - at}

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Failures(Mark):
    """Starts in a row of which none was ready for a while, nor left cleanly."""

    def __init__(self, record: Path) -> None:
        super().__init__(record, "failures")
        found = self.read()
        is_recent = found is not None and found["age"] < FORGET_SECONDS
        self.count = max(whole(found.get("count")) or 0, 0) if found and is_recent else 0

    def begin(self) -> None:
        """Count this start as failed until it has proved otherwise: a process that is killed cannot do so itself."""
        self.write(count=self.count + 1)

    @property
    def pause_seconds(self) -> float:
        return pause_after(self.count)


def pause_after(failures: int) -> float:
    """None after the first failure, because what was killed once has a task to adopt; then 1 s, doubled each time."""
    return 0.0 if failures < 2 else min(2.0 ** min(failures - 2, 30), LONGEST_PAUSE_SECONDS)


class Drain(Mark):
    """That the agent drains, which its crash does not change."""

    def __init__(self, record: Path) -> None:
        super().__init__(record, "draining")

    def is_wanted(self) -> bool:
        """Whether the agent before this one was draining, and this is its restart."""
        found = self.read()
        return found is not None and not (found.get("has_left") and found["age"] > RESTART_SECONDS)

    def begin(self) -> None:
        self.write(has_left=False)

    def leave(self) -> None:
        """The agent was told to leave before its task had ended."""
        self.write(has_left=True)


class Pause:
    """That an operator has paused the agent, and why."""

    def __init__(self, record: Path) -> None:
        self.path = record.with_suffix(".paused")

    def begin(self, why: str) -> None:
        """On the disk when this returns. Raises OSError: who asked for it has to know that it would not last."""
        write_json(self.path, {"why": why, "at_ms": int(time.time() * 1000)}, durable=True)

    def end(self) -> None:
        """The same, the other way."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)

    def reason(self) -> str | None:
        """Why it is paused; None if it is not. A file that cannot be read pauses all the same."""
        try:
            found = read_json(self.path)
            return str(found.get("why") or "") if found else "" if self.path.exists() else None
        except OSError as error:
            log.warning("%s cannot be read: %s", self.path, error)
            return ""


def since_boot() -> float:
    """Seconds, those asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
