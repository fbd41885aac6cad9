"""GPUs shared out among queues: simulated days of 10,000 tasks on eight GPUs, two NUMA nodes of four with NVLink each.

Run N plays day N through, for ours and for the first fit of the reference, which is computed here (nothing is started)
where the reference takes part. Waits and GPUs in use are the same for both as long as nothing is reserved: then they
follow from the number of free GPUs, and the two differ in which GPUs a task gets. The last rows are ours with a
reservation, beside the same first fit.
"""

from __future__ import annotations

import time

from agent.gpu.allocation import Layout
from benchmarks.contestants import ours
from benchmarks.figures.base import Bench, Row
from benchmarks.simulation import GPUS, Outcome, Policy, Task, allocation, day, first_fit, host, outcome, simulate

TASKS = 10_000
RESERVE_AFTER_SECONDS = 1800.0
DAY = f"a day of {TASKS:,} tasks on {GPUS} GPUs"
INVENTORY = host()
LABELS = tuple(str(gpu.index) for gpu in INVENTORY.gpus)


def measure(bench: Bench) -> list[Row]:
    wall = Row(title=f"{DAY}, simulated, wall", unit="s", limit=2.0)
    used = Row(title=f"{DAY}, GPUs in use", unit="%", limit=84.0, at_least=True)
    mean = Row(title=f"{DAY}, mean wait", unit="s", limit=300.0)
    near = Row(title=f"{DAY}, of several GPUs on one NUMA node", unit="%", limit=92.0, at_least=True)
    spread = Row(title=f"{DAY}, spread though a node had room", unit="%", limit=0.0, worst=True)
    late = Row(title=f"{DAY}, reserving after 30 min, mean wait", unit="s", limit=300.0)
    longest = Row(title=f"{DAY}, reserving after 30 min, longest wait of four GPUs", unit="s", limit=2400.0, worst=True)
    reference = next((contestant for contestant in bench.contestants if contestant.name == "reference"), None)
    for run in range(bench.runs):
        tasks = day(run + 1, tasks=TASKS)
        started = time.perf_counter()
        at_once = _played(tasks, allocation(Layout.of(INVENTORY, LABELS)))
        wall.add(ours(), time.perf_counter() - started)
        reserving = allocation(Layout.of(INVENTORY, LABELS), reserve_after_seconds=RESERVE_AFTER_SECONDS)
        results = [(ours(), at_once, _played(tasks, reserving))]
        if reference:
            first = _played(tasks, first_fit)
            results.append((reference, first, first))
        for contestant, plain, reserved in results:
            used.add(contestant, 100 * plain.utilisation)
            mean.add(contestant, plain.waits.mean)
            near.add(contestant, 100 * plain.on_one_node)
            spread.add(contestant, 100 * plain.needlessly_spread)
            late.add(contestant, reserved.waits.mean)
            longest.add(contestant, reserved.by_queue["quad"].longest)
    return [wall, used, mean, near, spread, late, longest]


def _played(tasks: tuple[Task, ...], policy: Policy) -> Outcome:
    return outcome(simulate(tasks, LABELS, policy), INVENTORY)
