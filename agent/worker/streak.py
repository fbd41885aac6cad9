"""Tasks in a row that could not be set up here though nothing was wrong with them: a pause, then one that is tried.

A host can be unfit in ways that nobody looks for (a certificate, a proxy, a package index of its own). Such an agent
would empty a queue, one failed task after the other.

    counting ──as many as are allowed──▶ pausing ──pause over──▶ trying one ──it runs──▶ counting
                                            ▲                        │
                                            └───── twice as long ◀───┘ it fails, too
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.models import Outcome
from agent.runner.rundir import RunDirectory

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
LONGEST_REASON = 160


class Streak:
    """`most` failures in a row are allowed, 0: any number. `clock` tells seconds."""

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._begun: set[Path] = set()
        self._trial: RunDirectory | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._count = 0
        self._last = ""
        self._pause = 0.0
        self._until = 0.0

    @property
    def is_on(self) -> bool:
        return bool(self._most) and self._count >= self._most

    def why_not(self) -> str:
        """Why no task may start now; empty if one may."""
        if not self.is_on:
            return ""
        failed = f"{self._count} tasks in a row could not be set up here; last: {self._last}"
        if self._trial is not None:
            return f"{failed}; one is tried"
        return f"{failed}; a pause of {self._pause:.0f} s" if self.seconds_left() else ""

    def seconds_left(self) -> float:
        """How long the pause still lasts."""
        return max(0.0, self._until - self._clock()) if self.is_on else 0.0

    def began(self, run: RunDirectory) -> None:
        """A task was started; while there is doubt, no other beside it until it is seen that this one runs."""
        self._begun.add(run.path)
        if self.is_on and self._trial is None:
            self._trial = run

    def look(self) -> None:
        """See whether the task that is tried has come as far as its own code."""
        if self._trial is not None and self._trial.read("user") is not None:
            self._trial = None
            self.forget()

    def ended(self, run: RunDirectory) -> None:
        """A run has ended. One that somebody stopped says nothing of the host, nor does one that we did not start: a
        host that was switched off has ended all of its runs.
        """
        if run.path not in self._begun:
            return
        self._begun.remove(run.path)
        if self._trial is not None and self._trial.path == run.path:
            self._trial = None
        outcome = run.read_outcome()
        if run.read("stop") is not None or (outcome is not None and outcome.stopped):
            return
        if reason := failure_of(outcome):
            self._count += 1
            self._last = reason
        else:
            self.forget()
        if self.is_on and not self.seconds_left():
            self._pause = min(max(FIRST_PAUSE_SECONDS, self._pause * 2), LONGEST_PAUSE_SECONDS)
            self._until = self._clock() + self._pause


def failure_of(outcome: Outcome | None) -> str:
    """What failed, in a line, if it was the host and not the task; empty otherwise."""
    if outcome is None:
        return "its executor died"
    if not outcome.infrastructure:
        return ""
    line = next(iter(outcome.error.strip().splitlines()), "") or f"{outcome.phase} failed"
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
