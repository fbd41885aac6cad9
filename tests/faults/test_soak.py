"""Eight agents, a stream of short tasks, and something goes wrong every second: `make soak MINUTES=10`.

Two of the agents are never killed; by them, and by the server, memory and file descriptors are seen to stay flat.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.agent import AgentProcess, create_script
from support.apiserver import CallError, ServerProcess
from support.invariants import Checker, counting_script, processes

from benchmarks.faultproxy import Fault, FaultProxy
from benchmarks.report import with_rows, write
from benchmarks.soak import BEGINNING, rows_from

ROOT = Path(__file__).parent.parent.parent
AGENTS, NEVER_KILLED, WAITING = 8, 2, 16
LINES = 12
#: How much more memory the second half may take than the first, in the mean; caches of the server included.
GROWTH = 1.10
ENDPOINTS = (
    *("queues.get_next_task", "tasks.get_by_id", "tasks.started", "tasks.get_all", "events.add_batch"),
    *("tasks.completed", "tasks.failed", "tasks.stopped", "workers.status_report", "tasks.set_requirements"),
)
FAULTS = (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.GATEWAY_AFTER, Fault.REFUSED, Fault.ERROR_BEFORE)


@dataclass(slots=True)
class Readings:
    """Memory (MiB, proportional share) and open files of one process over time."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            self.memory.append(process.memory_full_info().pss / 1024 / 1024)
            self.files.append(process.num_fds())
        except psutil.Error:
            return

    def halves(self) -> tuple[float, float]:
        """The medians of the second and the last quarter: the first is a warm-up."""
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[quarter : 2 * quarter]), statistics.median(self.memory[-quarter:])

    @property
    def most_files(self) -> tuple[int, int]:
        quarter = max(1, len(self.files) // 4)
        return max(self.files[quarter : 2 * quarter]), max(self.files[-quarter:])


class Soak:
    """The fleet, the tasks, and the faults that are done to them. One seed gives one order of faults."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy, place: Path, *, seed: int) -> None:
        self.server, self.proxy, self.place = server, proxy, place
        self.random = random.Random(seed)
        self.ledger = place / "ledger"
        self.tasks: list[str] = []
        self.shaken: set[str] = set()  # whose executor was killed, or which was reset: less can be known of them
        self.done: Counter[str] = Counter()
        server.new_queue("soak")
        self.agents = [self._agent(number) for number in range(AGENTS)]

    def _agent(self, number: int) -> AgentProcess:
        return AgentProcess(
            self.server,
            self.place / f"host{number}",
            "soak",
            url=self.proxy.url,
            worker_id=f"soak:{number}",
            environ={"SUPERVISOR_ENABLED": "1"},
            stop_grace_seconds=1.0,
        )

    def feed(self) -> None:
        """Keep some tasks waiting."""
        queue = self.server.call("queues.get_all", name="^soak$")["queues"][0]
        for _ in range(WAITING - len(queue["entries"])):
            code = self.random.choice((0, 0, 0, 0, 1))
            pause = self.random.choice((0.0, 0.02, 0.1))
            script = counting_script(self.ledger, lines=LINES, pause=pause, code=code)
            self.tasks.append(create_script(self.server, script, queue="soak"))

    def go_wrong(self) -> None:
        """One fault."""
        faults: dict[str, tuple[Callable[[], None], int]] = {
            "call": (self._spoil_calls, 10),
            "kill agent": (self._kill_agent, 3),
            "restart agent": (self._restart_agent, 2),
            "kill executor": (self._kill_executor, 2),
            "kill program": (self._kill_program, 2),
            "abort": (self._abort, 2),
            "queue again": (self._queue_again, 1),
        }
        names = list(faults)
        name = self.random.choices(names, [faults[name][1] for name in names])[0]
        faults[name][0]()
        self.done[name] += 1

    def kill_server(self) -> None:
        self.server.kill()
        self.server.restart()
        self.done["kill server"] += 1

    def _spoil_calls(self) -> None:
        for _ in range(3):
            self.proxy.plan(self.random.choice(ENDPOINTS), self.random.choice(FAULTS))

    def _some_agent(self) -> AgentProcess:
        return self.random.choice(self.agents[NEVER_KILLED:])

    def _kill_agent(self) -> None:
        agent = self._some_agent()
        agent.kill()
        agent.restart()

    def _restart_agent(self) -> None:
        agent = self._some_agent()
        agent.signal(signal.SIGTERM)
        agent.restart()

    def _kill_executor(self) -> None:
        self._kill(is_executor=True)

    def _kill_program(self) -> None:
        self._kill(is_executor=False)

    def _kill(self, *, is_executor: bool) -> None:
        ours = set(self.tasks)  # other tests may run on this machine
        living = [(pid, task) for pid, task in processes().items() if task in ours and _is_executor(pid) == is_executor]
        if living:
            pid, task = self.random.choice(living)
            self.shaken.add(task)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def _abort(self) -> None:
        self._say("tasks.stop")

    def _queue_again(self) -> None:
        if task := self._say("tasks.reset", force=True):
            self.server.call("tasks.enqueue", task=task, queue_name="soak")

    def _say(self, endpoint: str, **more: object) -> str:
        """Tell something of a task of late; its id if the server has taken it."""
        task = self.random.choice(self.tasks[-2 * WAITING :])
        self.shaken.add(task)
        try:
            self.server.call(endpoint, task=task, **more)
        except CallError:
            return ""
        return task

    def end(self) -> None:
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.process.send_signal(signal.SIGINT)
        for agent in self.agents:
            agent.process.wait(60)


def _is_executor(pid: int) -> bool:
    try:
        return b"agent.executor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def soak(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Soak]:
    seed = request.config.getoption("--seed-of-faults")
    with ServerProcess(tmp_path / "server" / "data") as server, FaultProxy(server.api) as proxy:
        running = Soak(server, proxy, tmp_path, seed=seed)
        try:
            yield running
        finally:
            running.end()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_fleet_under_random_faults_loses_nothing_and_stays_flat(soak: Soak, request: pytest.FixtureRequest) -> None:
    minutes = float(request.config.getoption("--minutes"))
    began, readings = (
        time.monotonic(),
        {"server": Readings(), **{f"agent {n}": Readings() for n in range(NEVER_KILLED)}},
    )
    kills_of_server = [began + 60.0 * minutes * part for part in (0.1, 0.2)]
    next_reading = began
    while (now := time.monotonic()) < began + 60.0 * minutes:
        soak.feed()
        soak.go_wrong()
        if kills_of_server and now > kills_of_server[0]:
            kills_of_server.pop(0)
            soak.kill_server()
        if now > next_reading:
            next_reading = now + max(1.0, minutes / 2)
            readings["server"].take(soak.server.process.pid)
            for number in range(NEVER_KILLED):
                readings[f"agent {number}"].take(soak.agents[number].process.pid)
            _progress(soak, now - began)
        time.sleep(soak.random.uniform(0.2, 1.0))  # the pace of faults
    checker = Checker(
        server=soak.server, states=[agent.state for agent in soak.agents], ledger=soak.ledger, lines=LINES
    )
    calm = [task for task in soak.tasks if task not in soak.shaken]
    checker.settle(calm, seconds=120)
    checker.settle(sorted(soak.shaken), seconds=120, excused=frozenset({"outcome", "earlier consoles"}))
    found = _found(soak, checker, readings, minutes)
    if request.config.getoption("--write-docs"):
        _write_docs(found)
    for name, reading in readings.items():
        before, after = reading.halves()
        assert after < before * GROWTH, f"{name} grows: {before:.1f} → {after:.1f} MiB"
        files_before, files_after = reading.most_files
        assert files_after <= files_before + 8, f"{name} keeps files open: {files_before} → {files_after}"


def _progress(soak: Soak, seconds: float) -> None:
    print(f"  {seconds:5.0f} s: {len(soak.tasks)} tasks, {sum(soak.done.values())} faults", flush=True)


def _found(soak: Soak, checker: Checker, readings: dict[str, Readings], minutes: float) -> dict[str, Any]:
    """What there was, printed and kept beside the results of the benchmarks."""
    memory = {name: [round(mebibytes, 1) for mebibytes in reading.halves()] for name, reading in readings.items()}
    found = {
        "minutes": minutes,
        "tasks": len(soak.tasks),
        "starts": sum(entry["event"] == "begin" for entry in checker.entries()),
        "faults": dict(sorted(soak.done.items())),
        "calls spoilt": sum(one.fault is not Fault.PASS for one in soak.proxy.exchanges),
        "memory (MiB, second and last quarter)": memory,
        "open files (second and last quarter)": {name: reading.most_files for name, reading in readings.items()},
    }
    write(ROOT / "benchmarks/results/soak.json", json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return found


def _write_docs(found: dict[str, Any]) -> None:
    page = ROOT / "docs/benchmarks.md"
    others = "\n".join(line for line in page.read_text().split("\n") if not line.startswith(f"| {BEGINNING}"))
    write(page, with_rows(others, rows_from(found), {"date": f"{datetime.now(UTC):%Y-%m-%d}"}))
