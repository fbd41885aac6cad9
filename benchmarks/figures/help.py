"""`--help`: what every call of the command line costs before it does anything."""

from __future__ import annotations

from benchmarks.figures.base import Bench, Row
from benchmarks.measure import wall_and_peak


def measure(bench: Bench) -> list[Row]:
    wall = Row(title="`--help`, wall", unit="s", limit=0.12)
    peak = Row(title="`--help`, peak memory", unit="MB", limit=30.0)
    environments = {
        contestant.name: contestant.environment(bench.bed.home(contestant), bench.bed.server)
        for contestant in bench.contestants
    }
    for run in range(-1, bench.runs * 2):
        for contestant in bench.contestants:
            seconds, megabytes = wall_and_peak([str(contestant.executable), "--help"], environments[contestant.name])
            if run >= 0:  # the one before the first reads the files into memory
                wall.add(contestant, seconds)
                peak.add(contestant, megabytes)
    return [wall, peak]
