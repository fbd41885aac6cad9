"""From the call that enqueues a trivial task to its first line, and from its last line to `completed`.

Cold: nothing exists but the installed agent, which has just started. Warm: the same agent has run such a task before.
The moment of enqueueing is spread over five seconds, because an agent that polls may be lucky or not.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

from benchmarks.bed import Ran
from benchmarks.contestants import Contestant, running_daemon
from benchmarks.figures.base import Bench, Row
from benchmarks.scripts import TRIVIAL

#: The usual polling interval.
SPREAD_SECONDS = 5.0


def measure(bench: Bench) -> list[Row]:
    return [*_cold(bench), *_warm(bench)]


def _cold(bench: Bench) -> list[Row]:
    first = Row(title="trivial task, enqueue to first line, cold", unit="s", limit=1.0)
    with ExitStack() as stack:
        api = bench.bed.client()
        stack.callback(api.close)
        for _ in range(bench.runs):
            for contestant in bench.contestants:
                with running_daemon(contestant, bench.bed.home(contestant), bench.bed.server) as daemon:
                    wait_a_while()
                    first.add(contestant, bench.bed.run(api, daemon.queue, TRIVIAL).first_line)
    return [first]


def _warm(bench: Bench) -> list[Row]:
    first = Row(title="trivial task, enqueue to first line, warm", unit="s", limit=0.4)
    end = Row(title="end of user code to `completed`", unit="s", limit=0.2)
    for contestant, ran in warm_runs(bench, TRIVIAL):
        first.add(contestant, ran.first_line)
        end.add(contestant, ran.end_to_completed)
    return [first, end]


def warm_runs(bench: Bench, script: str, *, requirements: str = "") -> list[tuple[Contestant, Ran]]:
    """Run a script with each contestant in turns, after one run each that does not count."""
    found = []
    with ExitStack() as stack:
        api = bench.bed.client()
        stack.callback(api.close)
        daemons = [
            stack.enter_context(running_daemon(contestant, bench.bed.home(contestant), bench.bed.server))
            for contestant in bench.contestants
        ]
        for run in range(-1, bench.runs):
            for daemon in daemons:
                wait_a_while()
                ran = bench.bed.run(api, daemon.queue, script, requirements=requirements)
                if run >= 0:
                    found.append((daemon.contestant, ran))
    return found


def wait_a_while() -> None:
    time.sleep(0.5 + random.uniform(0, SPREAD_SECONDS))
