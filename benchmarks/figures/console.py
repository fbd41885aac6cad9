"""100,000 lines written as fast as they go: all there, in order, whole, with true times, and soon."""

from __future__ import annotations

import re
from contextlib import ExitStack
from itertools import pairwise

from benchmarks.bed import Ran
from benchmarks.contestants import running_daemon
from benchmarks.faultproxy import FaultProxy
from benchmarks.figures.base import Bench, Row
from benchmarks.scripts import FLOOD, LINES

LINE = re.compile(r"line (\d{6}) (\d+\.\d{3}) abcdefghijklmnopqrstuvwxyz0123456789 end")


def measure(bench: Bench) -> list[Row]:
    missing = Row(title=f"{LINES:,} lines at once, missing or cut", unit="lines", limit=0, worst=True)
    disorder = Row(title=f"{LINES:,} lines at once, out of order or doubled", unit="lines", limit=0, worst=True)
    untrue = Row(title=f"{LINES:,} lines at once, error of their times", unit="s", limit=1.0, worst=True)
    late = Row(title=f"{LINES:,} lines at once, last one there after the end", unit="s", limit=1.0)
    bed = bench.bed
    with ExitStack() as stack:
        api = bed.client()
        stack.callback(api.close)
        proxies = [stack.enter_context(FaultProxy(bed.server.account.api_server)) for _ in bench.contestants]
        daemons = [
            stack.enter_context(running_daemon(contestant, bed.home(contestant), bed.server, api_server=proxy.url))
            for contestant, proxy in zip(bench.contestants, proxies, strict=True)
        ]
        for _ in range(bench.runs):
            for daemon, proxy in zip(daemons, proxies, strict=True):
                proxy.watch(f"line {LINES - 1:06d} ")
                ran = bed.run(api, daemon.queue, FLOOD)
                numbers = whole_lines(ran)
                missing.add(daemon.contestant, LINES - len(set(numbers)))
                disorder.add(daemon.contestant, sum(b <= a for a, b in pairwise(numbers)))
                untrue.add(daemon.contestant, worst_time_error(ran))
                arrived = proxy.seen(f"line {LINES - 1:06d} ")
                late.add(daemon.contestant, (arrived or ran.completed) - ran.said("last"))
    return [missing, disorder, untrue, late]


def whole_lines(ran: Ran) -> list[int]:
    """The numbers of the lines that arrived whole, in the order of the server."""
    return [int(match[1]) for line in ran.lines if (match := LINE.fullmatch(line))]


def worst_time_error(ran: Ran) -> float:
    """How far the time of an event is from the times that its lines carry themselves."""
    worst = 0.0
    for event in ran.printed:
        times = [float(match[2]) for line in event["msg"].splitlines() if (match := LINE.fullmatch(line))]
        if times:
            stamp = event["timestamp"] / 1000
            worst = max(worst, times[0] - stamp, stamp - times[-1])
    return worst
