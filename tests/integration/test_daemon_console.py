"""The console of a task on its way to the server: soon, whole, in order, whatever the server does meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.agent import agent_on, console_of, create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.plain_server import plain_server

from benchmarks.faultproxy import Fault, FaultProxy

STEADY = """
import time
for n in range({lines}):
    print(f"line {{n}} {{time.time()}}", flush=True)
    time.sleep({pause})
"""

BURST = """
import sys
sys.stdout.write("".join(f"line {n}\\n" for n in range(100_000)))
"""


def test_a_line_is_on_the_server_within_a_second_of_being_written(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = create_script(server, STEADY.format(lines=20, pause=0.15))
        late: list[float] = []
        seen = 0
        while seen < 20:
            lines = console_of(server, task, level="DEBUG")
            late += [time.time() - float(line.split()[2]) for line in lines[seen:]]
            seen = len(lines)
            time.sleep(0.02)
        assert max(late) < 1.0


def test_a_hundred_thousand_lines_at_once_all_arrive_in_order(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = create_script(server, BURST)
        wait_for_status(server, task, "completed", seconds=60)
        assert console_of(server, task, level="DEBUG") == [f"line {n}" for n in range(100_000)]


FAULTS = [
    (Fault.ERROR_BEFORE, Fault.ERROR_AFTER),
    (Fault.HANG_BEFORE, Fault.HANG_AFTER),
]


@pytest.mark.parametrize("faults", FAULTS, ids=["500", "hang"])
@pytest.mark.parametrize("is_plain", [False, True], ids=["our server", "plain server"])
def test_no_line_is_lost_or_doubled_while_the_server_fails(
    server: ServerProcess, tmp_path: Path, faults: tuple[Fault, ...], is_plain: bool
) -> None:
    with plain_server(server.api) as (plain, _), FaultProxy(plain if is_plain else server.api) as proxy:
        with agent_on(server, tmp_path, url=proxy.url, polling_interval_seconds=0.2):
            task = create_script(server, STEADY.format(lines=120, pause=0.05))
            wait_for(lambda: console_of(server, task, level="DEBUG"), what="first lines")
            proxy.fail(*faults)
            time.sleep(3.0)  # the length of the outage
            proxy.recover()
            wait_for_status(server, task, "completed", seconds=60)
            lines = [line.rsplit(" ", 1)[0] for line in console_of(server, task, level="DEBUG")]
            assert lines == [f"line {n}" for n in range(120)]


def test_readings_of_the_machine_become_scalars_of_the_task(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path, status_report_interval_seconds=0.3):
        task = create_script(server, STEADY.format(lines=30, pause=0.05))
        wait_for_status(server, task, "completed")
        curves = server.call("events.scalar_metrics_iter_histogram", task=task)
        assert {"cpu_usage", "memory_used", "disk_free_home"} <= set(curves[":monitor:machine"])
