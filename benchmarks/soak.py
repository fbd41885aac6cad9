"""What `make soak` (tests/faults/test_soak.py) has seen, as rows of the table.

It is no figure of `make bench`: it takes as long as one likes, and nobody else could be put through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.figures.base import Row

#: What all of its rows begin with.
BEGINNING = "soak of "
MOST_GROWTH_PERCENT = 10.0


def rows_from(found: Mapping[str, Any]) -> list[Row]:
    """`found` is what the soak writes into `benchmarks/results/soak.json`, which it does only if nothing was lost."""
    faults, calls = sum(found["faults"].values()), found["calls spoilt"]
    what = f"{BEGINNING}{found['minutes']:g} min, {found['tasks']:,} tasks, {faults} faults, {calls} calls spoilt"
    memory, files = found["memory (MiB, second and last quarter)"], found["open files (second and last quarter)"]
    agents = [name for name in memory if name.startswith("agent")]
    numbers = {
        ("tasks lost, run twice or misreported", "tasks", 0.0): 0.0,
        ("console lines lost or doubled", "lines", 0.0): 0.0,
        ("growth of an agent's memory", "%", MOST_GROWTH_PERCENT): max(_growth(*memory[name]) for name in agents),
        ("growth of the server's memory", "%", MOST_GROWTH_PERCENT): _growth(*memory["server"]),
        ("more open files, agents and server", "files", 8.0): float(
            max(last - first for first, last in files.values())
        ),
    }
    rows = []
    for (title, unit, limit), value in numbers.items():
        row = Row(title=f"{what}: {title}", unit=unit, limit=limit, worst=True)
        row.values["ours"].append(max(0.0, value))
        rows.append(row)
    return rows


def _growth(before: float, after: float) -> float:
    return 100.0 * (after - before) / before
