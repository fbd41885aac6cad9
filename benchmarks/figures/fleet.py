"""The server under a fleet: simulated agents (`benchmarks/simagents.py`) on a server of their own, in growing numbers.

At each size the fleet first idles for the window, then single tasks are enqueued, spread out, and the time from the
start of that call to the reply that gives the task to an agent is taken. At the largest size a stream of tasks follows,
and everything that went in is accounted for. Agents and server share the machine, so all of this is the worse for the
load that the agents are. `clearml-agent` does not take part: its own server is another program.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from benchmarks import simagents
from benchmarks.contestants import ours
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import cpu_seconds, pss_mb
from benchmarks.simagents import Fleet
from demo.server import Server, running_server
from demo.state import claimed_place

SIZES = (100, 200, 500, 1000, 2000)
WAITING, IDLE, LARGEST = 200, 1000, 2000
SINGLE_TASKS = 60  # a run of the bench; five runs make 300
PAUSE_SECONDS = 0.1
STREAM_PER_SECOND = 10
STREAM_SECONDS = 600.0
LAST_ONES_SECONDS = 60.0
MOST_IDS = 500


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of this figure."""

    median: Row
    slowest: Row
    processor: Row
    memory: Row
    lost: Row
    missing: Row
    broken: Row

    def listed(self) -> list[Row]:
        """In the order of the table."""
        return [self.median, self.slowest, self.processor, self.memory, self.lost, self.missing, self.broken]


def measure(bench: Bench) -> list[Row]:
    rows = _rows()
    with claimed_place(bench.bed.folder, kind="fleet", keep=False) as place, running_server(place) as server:
        simagents.run(lambda: _grow(bench, server, rows))
    return rows.listed()


def _rows() -> Rows:
    claimed = "enqueue to claim"
    claim = f"{WAITING} agents wait, {claimed}"
    idle = f"{IDLE:,} idle agents, server"
    stream = f"{LARGEST:,} agents and a stream of tasks"
    return Rows(
        median=Row(title=f"{claim}, median", unit="ms", limit=20.0, grows=f"{claimed}, median"),
        slowest=Row(title=f"{claim}, 99th percentile", unit="ms", limit=100.0, grows=f"{claimed}, 99th percentile"),
        processor=Row(title=f"{idle} processor", unit="% of a core", limit=50.0, grows="server processor, idle agents"),
        memory=Row(title=f"{idle} memory (PSS)", unit="MB", limit=300.0, grows="server memory (PSS), idle agents"),
        lost=Row(title=f"{stream}: lost or run twice", unit="tasks", limit=0.0, worst=True),
        missing=Row(title=f"{stream}: not listed at the end", unit="agents", limit=0.0, worst=True),
        broken=Row(title=f"{stream}: refused or broken", unit="requests", limit=0.0, worst=True),
    )


async def _grow(bench: Bench, server: Server, rows: Rows) -> None:
    async with simagents.open_fleet(server.account, "simulated") as fleet:
        for size in SIZES:
            await fleet.grow(size)
            processor, memory = await _idle(bench, server)
            latencies = await _single_tasks(bench, fleet)
            _note(rows, size, processor, memory, latencies)
            bench.say(
                f"fleet of {size}: {statistics.median(processor):.1f} % of a core, {memory:.0f} MB, "
                f"median {statistics.median(latencies):.1f} ms, 99th {_slowest(latencies):.1f} ms"
            )
        await _stream(bench, server, fleet, rows)


def _note(rows: Rows, size: int, processor: list[float], memory: float, latencies: list[float]) -> None:
    if size == WAITING:
        rows.median.values["ours"] += latencies
        rows.slowest.add(ours(), _slowest(latencies))
    if size == IDLE:
        rows.processor.values["ours"] += processor
        rows.memory.add(ours(), memory)
    rows.median.growth[size] = statistics.median(latencies)
    rows.slowest.growth[size] = _slowest(latencies)
    rows.processor.growth[size] = statistics.median(processor)
    rows.memory.growth[size] = memory


def _slowest(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100, method="inclusive")[98]


async def _idle(bench: Bench, server: Server) -> tuple[list[float], float]:
    """The server's processor time in percent of a core, window by window, and its memory."""
    processor = []
    for _ in range(bench.runs):
        before, started = cpu_seconds([server.pid]), time.perf_counter()
        await asyncio.sleep(bench.window_seconds / bench.runs)
        processor.append(100 * (cpu_seconds([server.pid]) - before) / (time.perf_counter() - started))
    return processor, pss_mb([server.pid])


async def _single_tasks(bench: Bench, fleet: Fleet) -> list[float]:
    """Milliseconds from the start of each enqueue to the claim."""
    tasks = [await _created(fleet) for _ in range(SINGLE_TASKS * bench.runs)]
    enqueued = {}
    for task in tasks:
        enqueued[task] = await fleet.enqueue(task)
        await asyncio.sleep(PAUSE_SECONDS)
    if not await simagents.until(lambda: fleet.ledger.completed.issuperset(tasks), seconds=LAST_ONES_SECONDS):
        raise RuntimeError(f"{len(set(tasks) - fleet.ledger.completed)} tasks were not run: {fleet.ledger.broken[:3]}")
    return [1000 * (fleet.ledger.claimed[task] - enqueued[task]) for task in tasks]


async def _created(fleet: Fleet) -> str:
    task: str = (await fleet.client("tasks.create", name="simulated", type="training"))["id"]
    return task


async def _stream(bench: Bench, server: Server, fleet: Fleet, rows: Rows) -> None:
    """So many tasks a second for ten minutes (less in a quick bench), and what became of each."""
    seconds = STREAM_SECONDS if bench.window_seconds >= 60 else 4 * bench.window_seconds
    before = cpu_seconds([server.pid])
    enqueued = await _fed(fleet, seconds)
    used = 100 * (cpu_seconds([server.pid]) - before) / seconds
    await simagents.until(lambda: fleet.ledger.completed.issuperset(enqueued), seconds=LAST_ONES_SECONDS)
    ended = await _completed(fleet, list(enqueued))
    twice = sum(fleet.ledger.claims[task] > 1 for task in enqueued)
    listed = {worker["id"] for worker in (await fleet.client("workers.get_all"))["workers"]}
    rows.lost.add(ours(), len(enqueued.keys() - (ended & fleet.ledger.completed)) + twice)
    rows.missing.add(ours(), len({agent.worker for agent in fleet.agents} - listed))
    rows.broken.add(ours(), len(fleet.ledger.broken))
    latencies = [1000 * (fleet.ledger.claimed[task] - at) for task, at in enqueued.items() if task in ended]
    bench.say(
        f"stream of {len(enqueued)} tasks in {seconds:.0f} s: {used:.1f} % of a core, {pss_mb([server.pid]):.0f} MB, "
        f"median {statistics.median(latencies):.1f} ms, 99th {_slowest(latencies):.1f} ms"
    )
    for fault in fleet.ledger.broken[:10]:
        bench.say(f"broken: {fault}")


async def _fed(fleet: Fleet, seconds: float) -> dict[str, float]:
    """The tasks that were enqueued meanwhile, each with the time just before."""
    enqueued = {}
    started = time.perf_counter()
    for number in range(int(seconds * STREAM_PER_SECOND)):
        task = await _created(fleet)
        enqueued[task] = await fleet.enqueue(task)
        due = started + (number + 1) / STREAM_PER_SECOND
        await asyncio.sleep(max(due - time.perf_counter(), 0))
    return enqueued


async def _completed(fleet: Fleet, tasks: list[str]) -> set[str]:
    """Which of these tasks the server has as completed."""
    found: set[str] = set()
    for at in range(0, len(tasks), MOST_IDS):
        ask = {"id": tasks[at : at + MOST_IDS], "only_fields": ["id", "status"], "page": 0, "page_size": MOST_IDS}
        page = (await fleet.client("tasks.get_all", **ask))["tasks"]
        found |= {task["id"] for task in page if task["status"] == "completed"}
    return found
