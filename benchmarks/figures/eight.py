"""Eight idle agents on one host, as `supervisor-gen` starts them for eight GPUs: what they cost together."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.contestants import Contestant, Daemon, running_daemon
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import cpu_seconds, pss_mb

#: Each has the limits of one alone (`idle.py`).
AGENTS = 8
SETTLE_SECONDS = 15.0


def measure(bench: Bench) -> list[Row]:
    """One contestant after the other: sixteen daemons at once would share pages that eight do not."""
    memory = Row(title="eight idle agents, memory together (PSS)", unit="MB", limit=AGENTS * 22.0)
    processor = Row(title="eight idle agents, processor together", unit="%", limit=AGENTS * 0.1)
    for contestant in bench.contestants:
        with ExitStack() as stack:
            daemons = [_started(stack, bench, contestant) for _ in range(AGENTS)]
            time.sleep(SETTLE_SECONDS)
            for _ in range(bench.runs):
                before = _cpu(daemons)
                time.sleep(bench.window_seconds)
                processor.add(contestant, 100 * (_cpu(daemons) - before) / bench.window_seconds)
                memory.add(contestant, pss_mb([pid for daemon in daemons for pid in daemon.processes()]))
    return [memory, processor]


def _started(stack: ExitStack, bench: Bench, contestant: Contestant) -> Daemon:
    return stack.enter_context(running_daemon(contestant, bench.bed.home(contestant), bench.bed.server))


def _cpu(daemons: list[Daemon]) -> float:
    return cpu_seconds([pid for daemon in daemons for pid in daemon.processes()])
