"""What a runtime promises.

A runtime starts the executor of a run and hands out a `Handle` on it. It can find the handle again after the daemon was
restarted (`attach`), because whatever it needs for that is in the run directory. It does not read the task's output and
does not judge its end: both are in files that the executor writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Handle(Protocol):
    """One running executor."""

    async def wait(self) -> None:
        """Return when the executor is gone. Safe to cancel and to call again."""
        ...

    def stop(self) -> None:
        """Ask the executor to end its task; it gives the task its grace and writes the outcome. Idempotent."""
        ...

    def kill(self) -> None:
        """End the executor and everything it started, at once."""
        ...


class Runtime(Protocol):
    """One place where executors run."""

    async def launch(self, run: Path, environ: Mapping[str, str], *, keep: Sequence[int] = ()) -> Handle:
        """Start the executor of the run in directory `run`. Raises OSError if it cannot be started.

        `keep`: descriptors that the executor holds open under the same numbers (leases of GPUs).
        """
        ...

    async def attach(self, run: Path) -> Handle | None:
        """The handle of an executor that an earlier daemon launched; None if it is gone."""
        ...

    async def end_leftovers(self, run: Path) -> bool:
        """End what an executor that was killed has left running; True if there was something. Returns when it is gone
        (or cannot be killed).
        """
        ...
