"""Why an agent takes no task at all though it stays: an operator has paused it, or its host is not fit.

A run that is under way goes on, and its agent goes on to hear, report and answer. What the server says (`gate.py`)
lifts no bar: who forces a worker on does not mean a broken GPU.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.worker.standing import Stand, Standing


class Bars:
    """The bars of one agent, at most one of each kind; the gravest is told."""

    def __init__(self) -> None:
        self._bars: dict[Standing, str] = {}
        self._listeners: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._bars)

    @property
    def stand(self) -> Stand:
        """The gravest bar as the server is told it; OPEN without any."""
        if not self._bars:
            return Stand()
        gravest = max(self._bars, key=list(Standing).index)
        return Stand(standing=gravest, why=self._bars[gravest])

    def every(self) -> tuple[Stand, ...]:
        """All of them, the gravest first."""
        gravest_first = sorted(self._bars, key=list(Standing).index, reverse=True)
        return tuple(Stand(standing=kind, why=self._bars[kind]) for kind in gravest_first)

    def put(self, kind: Standing, why: str = "") -> None:
        """Take no task from now on, because of `why`; another reason of the same kind replaces the one before."""
        if self._bars.get(kind) != why:
            self._bars[kind] = why
            self._tell()

    def lift(self, kind: Standing) -> None:
        """Nothing of this kind is in the way any more."""
        if self._bars.pop(kind, None) is not None:
            self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
