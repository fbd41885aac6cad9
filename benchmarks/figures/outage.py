"""A server that answers 500, or not at all, for a minute in the middle of a task that keeps printing.

The runs take turns: in one, the requests of that minute are refused before they have an effect, in the next one after
it, in the third now this way and now that. All runs go side by side, each with its own daemon and proxy: they mostly
wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from benchmarks.contestants import Contestant, running_daemon
from benchmarks.faultproxy import Fault, FaultProxy
from benchmarks.figures.base import Bench, Row
from benchmarks.figures.console import whole_lines
from benchmarks.scripts import OUTAGE_LINES, OUTAGE_SECONDS, SLOW

#: What a run suffers: the faults of the minute, one per request in turns. Run by run the next in the row.
FAULTS = {
    "answers 500": ((Fault.ERROR_BEFORE,), (Fault.ERROR_AFTER,), (Fault.ERROR_BEFORE, Fault.ERROR_AFTER)),
    "hangs": ((Fault.HANG_BEFORE,), (Fault.HANG_AFTER,), (Fault.HANG_BEFORE, Fault.HANG_AFTER)),
}
FIRST_LINES_SECONDS = 20.0
TASK_SECONDS = 600.0


def measure(bench: Bench) -> list[Row]:
    with ThreadPoolExecutor(max_workers=64) as pool:
        running = {
            name: [
                (contestant, pool.submit(_one_run, bench, contestant, patterns[run % len(patterns)]))
                for run in range(bench.runs)
                for contestant in bench.contestants
            ]
            for name, patterns in FAULTS.items()
        }
    return [row for name, runs in running.items() for row in _rows(name, runs)]


def _rows(name: str, runs: Sequence[tuple[Contestant, Future[list[int]]]]) -> tuple[Row, Row]:
    title = f"server {name} for {OUTAGE_SECONDS:.0f} s, of {OUTAGE_LINES:,} lines"
    lost = Row(title=f"{title} lost", unit="lines", limit=0, worst=True)
    doubled = Row(title=f"{title} doubled", unit="lines", limit=0, worst=True)
    for contestant, numbers in runs:
        lost.add(contestant, OUTAGE_LINES - len(set(numbers.result())))
        doubled.add(contestant, len(numbers.result()) - len(set(numbers.result())))
    return lost, doubled


def _one_run(bench: Bench, contestant: Contestant, faults: Sequence[Fault]) -> list[int]:
    """The numbers of the lines that the server has in the end."""
    bed = bench.bed
    api = bed.client()
    home = bed.home(contestant)
    with (
        FaultProxy(bed.server.account.api_server) as proxy,
        running_daemon(contestant, home, bed.server, api_server=proxy.url) as daemon,
    ):
        proxy.watch("line 000000 ")
        task, enqueued = bed.enqueue(api, daemon.queue, SLOW)
        deadline = time.monotonic() + 120
        while not proxy.seen("line 000000 ") and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(FIRST_LINES_SECONDS)
        proxy.fail(*faults)
        time.sleep(OUTAGE_SECONDS)
        proxy.recover()
        numbers = whole_lines(bed.wait(api, task, enqueued, seconds=TASK_SECONDS))
    api.close()
    return numbers
