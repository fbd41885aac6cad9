"""A simulated day: that it is played by the rules, and that ours is no worse than first fit in it and nearer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.gpu.allocation import Layout, Wish
from benchmarks.contestants import Contestant
from benchmarks.figures import FIGURES
from benchmarks.figures.base import Bench
from benchmarks.simulation import (
    DAY_SECONDS,
    WISHES,
    Outcome,
    Policy,
    Run,
    Task,
    allocation,
    day,
    first_fit,
    host,
    outcome,
    simulate,
)

INVENTORY = host()
LABELS = [str(gpu.index) for gpu in INVENTORY.gpus]
LAYOUT = Layout.of(INVENTORY, LABELS)
POLICIES = {
    "ours": allocation(LAYOUT),
    "reserving": allocation(LAYOUT, reserve_after_seconds=600.0),
    "first fit": first_fit,
}


def a_day(seed: int = 1) -> tuple[Task, ...]:
    return day(seed, tasks=2000)


def played(policy: Policy, seed: int = 1) -> Outcome:
    return outcome(simulate(a_day(seed), LABELS, policy), INVENTORY)


def test_a_day_is_the_same_for_the_same_seed_and_as_much_work_as_asked_for() -> None:
    tasks = day(7)
    assert tasks == day(7) != day(8)
    assert len(tasks) == 10_000
    assert sum(task.work for task in tasks) == pytest.approx(0.85 * 8 * DAY_SECONDS)
    assert [task.arrived for task in tasks] == sorted(task.arrived for task in tasks)
    assert 0 <= tasks[0].arrived <= tasks[-1].arrived <= DAY_SECONDS
    assert {task.queue for task in tasks} == {wish.queue for wish in WISHES}


def test_more_tasks_arrive_by_day_than_by_night() -> None:
    hours = [task.arrived // 3600 for task in day(1)]
    assert sum(12 <= hour < 18 for hour in hours) > 1.2 * sum(hour < 6 for hour in hours)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_task_runs_once_on_gpus_of_its_own_and_for_as_long_as_its_work_takes(name: str) -> None:
    tasks = a_day()
    runs = simulate(tasks, LABELS, POLICIES[name])
    assert sorted((run.task for run in runs), key=lambda task: task.arrived) == list(tasks)
    sizes = {wish.queue: (wish.least, wish.most) for wish in WISHES}
    ends = dict.fromkeys(LABELS, 0.0)
    for run in runs:
        least, most = sizes[run.task.queue]
        assert least <= len(set(run.labels)) == len(run.labels) <= most
        assert run.ended - run.started == pytest.approx(run.task.work / len(run.labels))
        assert run.waited >= 0
        for label in run.labels:
            assert ends[label] <= run.started
            ends[label] = run.ended


@pytest.mark.parametrize("name", ["ours", "first fit"])
def test_a_task_that_waited_starts_the_moment_that_something_ends(name: str) -> None:
    runs = simulate(a_day(), LABELS, POLICIES[name])
    ends = {run.ended for run in runs}
    assert all(run.started in ends for run in runs if run.waited)
    assert any(run.waited for run in runs)


def test_ours_waits_no_longer_than_first_fit_and_is_nearer() -> None:
    for seed in (1, 2, 3):
        ours, first = played(POLICIES["ours"], seed), played(first_fit, seed)
        assert ours.waits.mean <= first.waits.mean
        assert ours.utilisation >= first.utilisation
        assert (1 - ours.on_one_node) < 0.75 * (1 - first.on_one_node)
        assert ours.on_nvlink == ours.on_one_node
        assert ours.needlessly_spread == 0 < first.needlessly_spread


def test_a_reservation_shortens_the_longest_wait_of_big_tasks() -> None:
    longest = {name: played(policy).by_queue["quad"].longest for name, policy in POLICIES.items()}
    assert longest["reserving"] < longest["ours"] == longest["first fit"]


def test_a_small_trace_by_hand() -> None:
    wishes = [Wish(queue="pair", least=2, most=2), Wish(queue="any", least=1, most=4)]
    tasks = [
        Task(queue="any", arrived=0, work=10),
        Task(queue="pair", arrived=1, work=8),
        Task(queue="any", arrived=2, work=3),
    ]
    runs = simulate(tasks, ["0", "1"], first_fit, wishes)
    assert [(run.task.queue, run.started, run.ended, run.labels) for run in runs] == [
        ("any", 0, 5, ("0", "1")),
        ("pair", 5, 9, ("0", "1")),
        ("any", 9, 10.5, ("0", "1")),
    ]
    assert isinstance(runs[0], Run)
    found = outcome(runs, host(2))
    assert found.utilisation == 1.0
    assert found.waits.mean == pytest.approx(11 / 3)
    assert found.waits.longest == 7
    assert (found.on_one_node, found.on_nvlink, found.needlessly_spread) == (0, 0, 0)


def test_a_task_that_never_fits_is_named() -> None:
    with pytest.raises(ValueError, match="never started: quad"):
        simulate([Task(queue="quad", arrived=0, work=1)], ["0", "1"], first_fit)


@pytest.mark.parametrize("names", [["ours"], ["ours", "reference"]])
def test_the_figure_reaches_its_limits_and_measures_first_fit_where_the_reference_takes_part(names: list[str]) -> None:
    nothing: Any = None
    contestants = [Contestant(name=name, title=name, executable=Path("x")) for name in names]
    rows = FIGURES["scheduling"](
        Bench(bed=nothing, contestants=contestants, runs=1, window_seconds=1.0, say=lambda text: None)
    )
    assert [row.title for row in rows if not row.reached] == []
    assert {name for row in rows[1:] for name in row.values} == set(names)
    assert set(rows[0].values) == {"ours"}
