"""A task with packages (numpy and requests) that the agent has installed for an earlier task."""

from __future__ import annotations

from benchmarks.figures.base import Bench, Row
from benchmarks.figures.dispatch import warm_runs
from benchmarks.scripts import PACKAGES, PACKAGES_REQUIREMENTS


def measure(bench: Bench) -> list[Row]:
    first = Row(title="numpy + requests, enqueue to first line, warm", unit="s", limit=0.5)
    for contestant, ran in warm_runs(bench, PACKAGES, requirements=PACKAGES_REQUIREMENTS):
        ran.said("last")  # or the packages were not there
        first.add(contestant, ran.first_line)
    return [first]
