"""Whether a task can import what an earlier one installed: with the same requirements, and with none."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.bed import Ran
from benchmarks.contestants import running_daemon
from benchmarks.figures.base import Bench, Row
from benchmarks.scripts import LEAK_REQUIREMENTS, LEAKING, LOOKING


def measure(bench: Bench) -> list[Row]:
    leaked = Row(title="modules of an earlier task that can be imported", unit="modules", limit=0, worst=True)
    bed = bench.bed
    with ExitStack() as stack:
        api = bed.client()
        stack.callback(api.close)
        daemons = [
            stack.enter_context(running_daemon(contestant, bed.home(contestant), bed.server))
            for contestant in bench.contestants
        ]
        for _ in range(bench.runs):
            for daemon in daemons:
                bed.run(api, daemon.queue, LEAKING, requirements=LEAK_REQUIREMENTS).said("last")
                same = importable(bed.run(api, daemon.queue, LOOKING, requirements=LEAK_REQUIREMENTS))
                none = importable(bed.run(api, daemon.queue, LOOKING))
                leaked.add(daemon.contestant, len(same - {"tabulate"}) + len(none))
    return [leaked]


def importable(ran: Ran) -> set[str]:
    ran.said("last")
    return {line.split()[1] for line in ran.lines if line.startswith("importable ")}
