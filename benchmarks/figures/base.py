"""What a figure is: some rows of the table, measured for every contestant in turns.

A figure is one file with one function `measure(bench) -> rows`. It alternates between the contestants run by run, so
that whatever else the machine does in the meantime hits them alike, and it keeps every single value.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.bed import Bed
from benchmarks.contestants import Contestant


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a figure gets: the bed, who takes part, and how much to do."""

    bed: Bed
    contestants: Sequence[Contestant]
    runs: int
    window_seconds: float
    say: Callable[[str], object]


@dataclass(slots=True, kw_only=True)
class Row:
    """One number of the table: all values of all contestants, and the limit for ours.

    Times and sizes count by their median, faults by their worst run. `growth` is how ours behaves at other sizes, for
    a plot below the table that is called `grows`.
    """

    title: str
    unit: str
    limit: float
    at_least: bool = False
    worst: bool = False
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    grows: str = ""
    growth: dict[int, float] = field(default_factory=dict)

    def add(self, contestant: Contestant, value: float) -> None:
        self.values[contestant.name].append(value)

    def result(self, contestant: str) -> float | None:
        """The number that counts; None for a contestant that did not take part."""
        if not self.values.get(contestant):
            return None
        return max(self.values[contestant]) if self.worst else statistics.median(self.values[contestant])

    @property
    def reached(self) -> bool:
        ours = self.result("ours")
        return ours is not None and (ours >= self.limit if self.at_least else ours <= self.limit)


Figure = Callable[[Bench], list[Row]]
