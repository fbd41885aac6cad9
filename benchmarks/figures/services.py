"""Services mode: what fifty tasks that do next to nothing cost the daemon that looks after them."""

from __future__ import annotations

import time

from benchmarks.contestants import ours, running_daemon
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import cpu_seconds, pss_mb
from demo.processes import wait_until

SERVICES = 50
START_SECONDS = 180.0
SETTLE_SECONDS = 10.0
SLEEPER = "import time\nprint('first', time.time(), flush=True)\ntime.sleep(3600)\n"


def measure(bench: Bench) -> list[Row]:
    """Only ours: `clearml-agent` looks after no service that it has started."""
    processor = Row(title=f"{SERVICES} idle services, the daemon's processor", unit="%", limit=5.0)
    memory = Row(title=f"{SERVICES} idle services, the daemon's memory (PSS)", unit="MB", limit=60.0)
    contestant = ours()
    home = bench.bed.home(contestant)
    with running_daemon(contestant, home, bench.bed.server, options=("--services-mode",)) as daemon:
        api = bench.bed.client()
        tasks = [bench.bed.enqueue(api, daemon.queue, SLEEPER)[0] for _ in range(SERVICES)]

        def all_run() -> bool:
            found = api("tasks.get_all", id=tasks, only_fields=["status"])["tasks"]
            return all(task["status"] == "in_progress" for task in found)

        if not wait_until(all_run, seconds=START_SECONDS):
            raise RuntimeError(f"not all of {SERVICES} services run after {START_SECONDS:.0f} s")
        time.sleep(SETTLE_SECONDS)
        for _ in range(bench.runs):
            before = cpu_seconds([daemon.pid])
            time.sleep(bench.window_seconds)
            processor.add(contestant, 100 * (cpu_seconds([daemon.pid]) - before) / bench.window_seconds)
            memory.add(contestant, pss_mb([daemon.pid]))
    return [processor, memory]
