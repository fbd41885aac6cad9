"""Queues in the store: order, moves, pops, leases and the repair of what does not agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.apiserver_store import ASKED, Store, open_store

from apiserver.announcements import EntryGone, QueueGrew
from apiserver.errors import ApiError
from apiserver.identity import COMPANY
from apiserver.store import popping, queues, task_status, tasks
from apiserver.store.schema import lease, queue_entry
from apiserver.store.schema import task as task_table

POPPER = popping.Popper(worker="host", ip="127.0.0.1", claim="one", lease_seconds=120)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as opened:
        yield opened


def filled(store: Store, queue: str, count: int) -> list[str]:
    made = [store.task(name=f"task {number}") for number in range(count)]
    for task in made:
        store.do(lambda tx, task=task: task_status.enqueue(tx, task, queue, ASKED))
    return made


def test_moves_do_what_a_list_would_do(store: Store) -> None:
    queue = store.queue()
    model = filled(store, queue, 7)
    dice = random.Random(7)
    for _ in range(150):
        task = dice.choice(model)
        place = model.index(task)
        model.remove(task)
        match dice.choice(["forward", "backward", "front", "back"]):
            case "forward":
                places = dice.randint(1, 4)
                target = max(place - places, 0)
                got = store.do(lambda tx, t=task, n=places: queues.move_by(tx, queue, t, -n))
            case "backward":
                places = dice.randint(1, 4)
                target = min(place + places, len(model))
                got = store.do(lambda tx, t=task, n=places: queues.move_by(tx, queue, t, n))
            case "front":
                target = 0
                got = store.do(lambda tx, t=task: queues.move_to(tx, queue, t, 0))
            case _:
                target = len(model)
                got = store.do(lambda tx, t=task: queues.move_to(tx, queue, t, 2**31))
        model.insert(target, task)
        assert got == target
        assert store.order(queue) == model


def test_a_place_between_two_neighbours_can_be_used_more_often_than_there_are_numbers(store: Store) -> None:
    queue = store.queue()
    first, *others = filled(store, queue, 4)
    model = [first, *others]
    for turn in range(60):
        mover = others[turn % 2 + 1]
        store.do(lambda tx, mover=mover: queues.move_to(tx, queue, mover, 1))
        model.remove(mover)
        model.insert(1, mover)
    assert store.order(queue) == model


def test_a_task_waits_in_one_queue_at_most(store: Store) -> None:
    one, two, task = store.queue("one"), store.queue("two"), store.task()
    store.do(lambda tx: task_status.enqueue(tx, task, one, ASKED))
    store.do(lambda tx: task_status.enqueue(tx, task, two, ASKED))
    assert (store.order(one), store.order(two)) == ([], [task])
    with pytest.raises(ApiError, match="400/706"):
        store.do(lambda tx: task_status.enqueue(tx, task, two, ASKED))
    assert store.status(task) == "queued"


def test_names_of_queues_differ_by_more_than_case(store: Store) -> None:
    store.queue("gpu")
    with pytest.raises(ApiError, match="400/801"):
        store.queue("GPU")
    with pytest.raises(ApiError, match="400/800"):
        store.queue(" ab ")


def test_a_pop_takes_the_first_task_of_the_first_queue_that_has_one(store: Store) -> None:
    empty, full = store.queue("empty"), store.queue("full")
    first, second = filled(store, full, 2)
    entry = store.do(lambda tx: popping.pop(tx, [empty, full], POPPER))
    assert entry is not None
    assert (entry.task, entry.queue) == (first, full)
    assert store.order(full) == [second]
    assert EntryGone(first) in store.announced


def test_a_named_pop_finds_the_task_anywhere_in_the_queue(store: Store) -> None:
    queue = store.queue()
    first, second, third = filled(store, queue, 3)
    entry = store.do(lambda tx: popping.pop(tx, [queue], POPPER, named=second))
    assert entry is not None
    assert entry.task == second
    assert store.order(queue) == [first, third]


def test_a_repeated_named_pop_with_the_same_claim_gives_the_same_entry(store: Store) -> None:
    queue = store.queue()
    (task,) = filled(store, queue, 1)
    once = store.do(lambda tx: popping.pop(tx, [queue], POPPER, named=task))
    again = store.do(lambda tx: popping.pop(tx, [queue], POPPER, named=task))
    assert once == again
    other = popping.Popper(worker="w", ip="", claim="two", lease_seconds=120)
    assert store.do(lambda tx: popping.pop(tx, [queue], other, named=task)) is None


def test_a_popped_task_of_which_nothing_is_heard_returns_to_the_front(store: Store) -> None:
    queue = store.queue()
    first, second = filled(store, queue, 2)
    popped = store.do(lambda tx: popping.pop(tx, [queue], POPPER))
    store.moment += 121
    store.announced.clear()
    returned = store.do(popping.return_expired)
    assert returned == [popped]
    assert store.order(queue) == [first, second]
    assert QueueGrew(queue, first) in store.announced


@pytest.mark.parametrize("sign", ["start", "ping", "report", "delete"])
def test_a_sign_of_life_ends_the_lease(store: Store, sign: str) -> None:
    queue = store.queue()
    (task,) = filled(store, queue, 1)
    store.do(lambda tx: popping.pop(tx, [queue], POPPER))
    match sign:
        case "start":
            store.do(lambda tx: task_status.start(tx, task, ASKED))
        case "ping":
            store.do(lambda tx: tasks.ping(tx, task, COMPANY))
        case "report":
            store.do(lambda tx: tasks.report_from_worker(tx, task, "host:0", COMPANY))
        case _:
            store.do(lambda tx: tasks.delete(tx, task, force=True, delete_models=True, company=COMPANY))
    assert store.do(lambda tx: tx.value(sa.select(lease.c.task))) is None
    store.moment += 1000
    assert store.do(popping.return_expired) == []


def test_entries_of_deleted_tasks_are_skipped_by_a_pop(store: Store) -> None:
    queue = store.queue()
    gone, here = filled(store, queue, 2)
    store.do(lambda tx: tx.execute(sa.delete(task_table).where(task_table.c.id == gone)))
    entry = store.do(lambda tx: popping.pop(tx, [queue], POPPER))
    assert entry is not None
    assert entry.task == here
    assert store.order(queue) == []


def test_a_queued_task_in_no_queue_is_put_back(store: Store) -> None:
    queue = store.queue()
    (task,) = filled(store, queue, 1)
    store.do(lambda tx: queues.remove(tx, task))
    store.do(lambda tx: task_status.reconcile(tx, 60))
    assert store.order(queue) == []
    store.moment += 61
    assert store.do(lambda tx: task_status.reconcile(tx, 60)) == 1
    assert store.order(queue) == [task]
    assert store.do(lambda tx: task_status.reconcile(tx, 60)) == 0


def test_a_queued_task_whose_queue_is_gone_becomes_what_it_was(store: Store) -> None:
    queue = store.queue()
    (task,) = filled(store, queue, 1)
    store.do(lambda tx: queues.delete(tx, queue, COMPANY))
    store.moment += 61
    store.do(lambda tx: task_status.reconcile(tx, 60))
    assert store.status(task) == "created"


def test_an_entry_whose_task_is_not_queued_is_dropped(store: Store) -> None:
    queue, task = store.queue(), store.task()
    store.do(lambda tx: queues.append(tx, queue, task))
    store.moment += 61
    store.do(lambda tx: task_status.reconcile(tx, 60))
    assert store.order(queue) == []


def test_a_popped_and_leased_task_is_not_reconciled(store: Store) -> None:
    queue = store.queue()
    (task,) = filled(store, queue, 1)
    store.do(lambda tx: popping.pop(tx, [queue], POPPER))
    store.moment += 61
    assert store.do(lambda tx: task_status.reconcile(tx, 60)) == 0
    assert store.order(queue) == []
    assert store.status(task) == "queued"


def test_positions_stay_unique_and_sparse(store: Store) -> None:
    queue = store.queue()
    filled(store, queue, 3)
    places = store.do(lambda tx: list(tx.execute(sa.select(queue_entry.c.pos)).scalars()))
    assert len(set(places)) == 3
    assert max(places) - min(places) == 2 * queues.STRIDE


def test_heads_leaves_reserved_tasks_out(store: Store) -> None:
    queue = store.queue()
    first, second = filled(store, queue, 2)
    head = store.do(lambda tx: queues.heads(tx, [queue], without=frozenset({first})))
    assert head is not None
    assert head.task == second
    assert store.do(lambda tx: queues.heads(tx, [queue], without=frozenset({first, second}))) is None
