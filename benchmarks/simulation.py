"""A day of tasks on one host, played through in a second: who would have waited how long, and on which GPUs.

Nothing here knows a clock, a server or a GPU. A trace is made from a seed; a policy says for every queue that has
somebody waiting which GPUs its next task would get, and the first of them in the order of priority starts, again and
again until nobody can; then time goes on to the next arrival or end. `first_fit` is how the reference shares GPUs out:
the queues in their order, each task on the first GPUs that are free.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from agent.gpu.allocation import Layout, Request, Wish, grants
from agent.gpu.model import Gpu, Gpus, Link

DAY_SECONDS = 86_400.0
GPUS = 8
#: In the order of priority.
WISHES = (
    Wish(queue="quad", least=4, most=4),
    Wish(queue="dual", least=2, most=2),
    Wish(queue="any", least=1, most=4),
)
#: How many of a hundred tasks go to which queue.
SHARES = {"quad": 10, "dual": 20, "any": 70}
#: The GPU-seconds of a task are spread log-normally; most are short, a few are 20 times the usual one.
SPREAD = 1.2
#: By how much the busiest hour is above the average, and the quietest below.
SWING = 0.2
BUSIEST_SECONDS = 15 * 3600.0

#: The labels that the next task of each queue would get, by the free labels and who waits.
Policy = Callable[[Collection[str], Sequence[Request]], Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it arrives; `work` is in GPU-seconds."""

    queue: str
    arrived: float
    work: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A task that got its GPUs, out of those that were free."""

    task: Task
    started: float
    ended: float
    labels: tuple[str, ...]
    free: frozenset[str]

    @property
    def waited(self) -> float:
        return self.started - self.task.arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds between arrival and start."""

    mean: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a day came to. `utilisation` is until the last task's end; the shares are of tasks on several GPUs.

    `needlessly_spread`: on both NUMA nodes, although one of them had GPUs enough.
    """

    utilisation: float
    waits: Waits
    by_queue: Mapping[str, Waits]
    on_one_node: float
    on_nvlink: float
    needlessly_spread: float


def host(gpus: int = GPUS) -> Gpus:
    """Two NUMA nodes, NVLink within each, PCIe between them."""
    half = gpus // 2
    return Gpus(gpus=tuple(_gpu(index, gpus, half) for index in range(gpus)))


def day(seed: int, *, tasks: int = 10_000, load: float = 0.85, gpus: int = GPUS) -> tuple[Task, ...]:
    """A day's tasks in the order of their arrival, which is more frequent by day; together `load` of all GPUs."""
    chance = random.Random(seed)
    arrivals = sorted(_arrival(chance) for _ in range(tasks))
    queues = chance.choices(list(SHARES), weights=list(SHARES.values()), k=tasks)
    raw = [chance.lognormvariate(0, SPREAD) for _ in range(tasks)]
    scale = load * gpus * DAY_SECONDS / sum(raw)
    return tuple(
        Task(queue=queue, arrived=arrived, work=work * scale)
        for queue, arrived, work in zip(queues, arrivals, raw, strict=True)
    )


def allocation(layout: Layout, *, reserve_after_seconds: float | None = None) -> Policy:
    """Ours."""

    def policy(free: Collection[str], requests: Sequence[Request]) -> dict[str, tuple[str, ...]]:
        granted = grants(layout, free, requests, reserve_after_seconds=reserve_after_seconds)
        return {queue: tuple(unit.label for unit in units) for queue, units in granted.items()}

    return policy


def first_fit(free: Collection[str], requests: Sequence[Request]) -> dict[str, tuple[str, ...]]:
    """The reference's: the lowest indexes, as many as there are."""
    ordered = sorted(free, key=int)
    return {
        request.wish.queue: tuple(ordered[: request.wish.most])
        for request in requests
        if request.wish.least <= len(ordered)
    }


def simulate(
    tasks: Sequence[Task], labels: Collection[str], policy: Policy, wishes: Sequence[Wish] = WISHES
) -> list[Run]:
    """Every task's run, by their start. Raises ValueError for tasks that never get enough GPUs."""
    free = set(labels)
    waiting: dict[str, deque[Task]] = {wish.queue: deque() for wish in wishes}
    ends: list[tuple[float, int]] = []
    runs: list[Run] = []
    coming = deque(tasks)
    while coming or ends:
        now = min(ends[0][0] if ends else math.inf, coming[0].arrived if coming else math.inf)
        while ends and ends[0][0] <= now:
            free.update(runs[heapq.heappop(ends)[1]].labels)
        while coming and coming[0].arrived <= now:
            task = coming.popleft()
            waiting[task.queue].append(task)
        while run := _next_run(now, free, waiting, policy, wishes):
            free.difference_update(run.labels)
            heapq.heappush(ends, (run.ended, len(runs)))
            runs.append(run)
    if any(waiting.values()):
        raise ValueError(f"never started: {', '.join(queue for queue, left in waiting.items() if left)}")
    return runs


def outcome(runs: Sequence[Run], inventory: Gpus) -> Outcome:
    """What `runs` on this host came to."""
    gpus = {str(gpu.index): gpu for gpu in inventory.gpus}
    several = [run for run in runs if len(run.labels) > 1]
    busy = sum((run.ended - run.started) * len(run.labels) for run in runs)
    queues = dict.fromkeys(run.task.queue for run in runs)
    return Outcome(
        utilisation=busy / (len(gpus) * max(run.ended for run in runs)),
        waits=_waits(runs),
        by_queue={queue: _waits([run for run in runs if run.task.queue == queue]) for queue in queues},
        on_one_node=statistics.fmean(_is_on_one_node(run, gpus) for run in several),
        on_nvlink=statistics.fmean(_is_on_nvlink(run, gpus) for run in several),
        needlessly_spread=statistics.fmean(
            not _is_on_one_node(run, gpus) and _had_room_on_one_node(run, gpus) for run in several
        ),
    )


def _next_run(
    now: float, free: set[str], waiting: Mapping[str, deque[Task]], policy: Policy, wishes: Sequence[Wish]
) -> Run | None:
    """What starts now: the next task of the first queue that is granted GPUs."""
    requests = [
        Request(wish=wish, waited_seconds=now - waiting[wish.queue][0].arrived)
        for wish in wishes
        if waiting[wish.queue]
    ]
    if not free or not requests:
        return None
    granted = policy(free, requests)
    queue = next((wish.queue for wish in wishes if wish.queue in granted), None)
    if queue is None:
        return None
    task, labels = waiting[queue].popleft(), granted[queue]
    return Run(task=task, started=now, ended=now + task.work / len(labels), labels=labels, free=frozenset(free))


def _arrival(chance: random.Random) -> float:
    """A moment of the day, by throwing away too early and too late ones as often as the shape of the day asks for."""
    while True:
        moment = chance.uniform(0, DAY_SECONDS)
        shape = 1 + SWING * math.cos(2 * math.pi * (moment - BUSIEST_SECONDS) / DAY_SECONDS)
        if chance.uniform(0, 1 + SWING) < shape:
            return moment


def _gpu(index: int, gpus: int, half: int) -> Gpu:
    peers = {f"GPU-{other}": Link.NVLINK if other // half == index // half else Link.SYSTEM for other in range(gpus)}
    del peers[f"GPU-{index}"]
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name="simulated",
        bus_id="",
        minor=index,
        memory_total_mib=81_559,
        numa=index // half,
        peers=peers,
    )


def _is_on_one_node(run: Run, gpus: Mapping[str, Gpu]) -> bool:
    return len({gpus[label].numa for label in run.labels}) == 1


def _is_on_nvlink(run: Run, gpus: Mapping[str, Gpu]) -> bool:
    return all(gpus[one].peers[gpus[other].uuid] is Link.NVLINK for one, other in combinations(run.labels, 2))


def _had_room_on_one_node(run: Run, gpus: Mapping[str, Gpu]) -> bool:
    return max(Counter(gpus[label].numa for label in run.free).values()) >= len(run.labels)


def _waits(runs: Sequence[Run]) -> Waits:
    waits = sorted(run.waited for run in runs)
    return Waits(mean=statistics.fmean(waits), p95=waits[math.ceil(0.95 * len(waits)) - 1], longest=waits[-1])
