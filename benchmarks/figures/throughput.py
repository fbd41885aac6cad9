"""Ten trivial tasks in a queue and one agent: how many a minute."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.contestants import running_daemon
from benchmarks.figures.base import Bench, Row
from benchmarks.scripts import TRIVIAL

TASKS = 10


def measure(bench: Bench) -> list[Row]:
    rate = Row(title=f"{TASKS} queued trivial tasks, one agent", unit="a minute", limit=150.0, at_least=True)
    bed = bench.bed
    with ExitStack() as stack:
        api = bed.client()
        stack.callback(api.close)
        daemons = [
            stack.enter_context(running_daemon(contestant, bed.home(contestant), bed.server))
            for contestant in bench.contestants
        ]
        for daemon in daemons:
            bed.run(api, daemon.queue, TRIVIAL)
        for _ in range(bench.runs):
            for daemon in daemons:
                queued = [bed.enqueue(api, daemon.queue, TRIVIAL) for _ in range(TASKS)]
                ended = [bed.wait(api, task, enqueued) for task, enqueued in queued]
                seconds = max(ran.completed for ran in ended) - queued[0][1]
                rate.add(daemon.contestant, 60 * TASKS / seconds)
    return [rate]
