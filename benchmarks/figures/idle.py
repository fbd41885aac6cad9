"""An agent with nothing to do: its memory, its processor time, and how often it asks the server."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.contestants import running_daemon
from benchmarks.faultproxy import FaultProxy
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import cpu_seconds, pss_mb

SETTLE_SECONDS = 10.0


def measure(bench: Bench) -> list[Row]:
    memory = Row(title="idle agent, memory (PSS)", unit="MB", limit=22.0)
    processor = Row(title="idle agent, processor", unit="%", limit=0.1)
    requests = Row(title="idle agent, requests", unit="a minute", limit=5.0)
    with ExitStack() as stack:
        idle = []
        for contestant in bench.contestants:
            proxy = stack.enter_context(FaultProxy(bench.bed.server.account.api_server))
            home = bench.bed.home(contestant)
            daemon = stack.enter_context(running_daemon(contestant, home, bench.bed.server, api_server=proxy.url))
            idle.append((contestant, proxy, daemon))
        time.sleep(SETTLE_SECONDS)
        for _ in range(bench.runs):
            before = [(cpu_seconds(daemon.processes()), len(proxy.exchanges)) for _, proxy, daemon in idle]
            time.sleep(bench.window_seconds)
            for (contestant, proxy, daemon), (cpu, count) in zip(idle, before, strict=True):
                processor.add(contestant, 100 * (cpu_seconds(daemon.processes()) - cpu) / bench.window_seconds)
                requests.add(contestant, (len(proxy.exchanges) - count) * 60 / bench.window_seconds)
                memory.add(contestant, pss_mb(daemon.processes()))
    return [memory, processor, requests]
