"""The status table of tasks, exhaustively: every pair of statuses, with and without force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.apiserver_store import ASKED, FORCED, Store, open_store

from apiserver import states
from apiserver.announcements import StatusChanged
from apiserver.errors import ApiError
from apiserver.identity import COMPANY
from apiserver.store import popping, task_status, tasks
from apiserver.store.schema import task as task_table

# Written out once more, so that a slip in the table of the code is seen.
ALLOWED = {
    ("created", "queued"),
    ("created", "in_progress"),
    ("queued", "created"),
    ("queued", "in_progress"),
    ("queued", "stopped"),
    ("in_progress", "created"),
    ("in_progress", "stopped"),
    ("in_progress", "failed"),
    ("in_progress", "completed"),
    ("stopped", "created"),
    ("stopped", "queued"),
    ("stopped", "in_progress"),
    ("stopped", "failed"),
    ("stopped", "completed"),
    ("stopped", "closed"),
    ("stopped", "publishing"),
    ("stopped", "published"),
    ("closed", "created"),
    ("closed", "stopped"),
    ("closed", "failed"),
    ("closed", "publishing"),
    ("closed", "published"),
    ("failed", "created"),
    ("failed", "queued"),
    ("failed", "stopped"),
    ("failed", "published"),
    ("completed", "created"),
    ("completed", "in_progress"),
    ("completed", "published"),
    ("publishing", "published"),
}

PAIRS = [(current, new) for current in sorted(states.STATUSES) for new in sorted(states.STATUSES)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(("current", "new"), PAIRS)
def test_a_change_is_allowed_exactly_when_the_table_says_so(current: str, new: str) -> None:
    expected = current == new or (current, new) in ALLOWED
    assert states.may_change(current, new) is expected


@pytest.mark.parametrize(("current", "new"), PAIRS)
def test_force_skips_the_table(current: str, new: str) -> None:
    states.require_change(current, new, force=True)


@pytest.mark.parametrize(
    ("new", "act"),
    [
        ("in_progress", task_status.start),
        ("stopped", lambda tx, task, asked: task_status.end(tx, task, "stopped", asked)),
        ("failed", lambda tx, task, asked: task_status.end(tx, task, "failed", asked)),
        ("completed", lambda tx, task, asked: task_status.end(tx, task, "completed", asked)),
        ("closed", task_status.close),
    ],
)
def test_every_status_call_follows_the_table_from_every_status(store: Store, new: str, act: object) -> None:
    for current in sorted(states.STATUSES):
        task = store.task()
        put_into(store, task, current)
        if current == new or (current, new) in ALLOWED:
            store.do(lambda tx, task=task: act(tx, task, ASKED))  # type: ignore[operator]
            assert store.status(task) == new
        else:
            with pytest.raises(ApiError) as refused:
                store.do(lambda tx, task=task: act(tx, task, ASKED))  # type: ignore[operator]
            assert (refused.value.code, refused.value.subcode) == (400, 110)
            assert store.status(task) == current
            store.do(lambda tx, task=task: act(tx, task, FORCED))  # type: ignore[operator]
            assert store.status(task) == new


def put_into(store: Store, task: str, status: str) -> None:
    store.do(lambda tx: tx.execute(sa.update(task_table).where(task_table.c.id == task).values(status=status)))


@pytest.mark.parametrize("current", sorted(states.STATUSES))
def test_enqueue_follows_the_table(store: Store, current: str) -> None:
    queue, task = store.queue(), store.task()
    put_into(store, task, current)
    if current == "queued" or (current, "queued") in ALLOWED:
        store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
        assert store.order(queue) == [task]
    else:
        with pytest.raises(ApiError, match="400/110"):
            store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
        assert store.order(queue) == []
        assert store.status(task) == current


@pytest.mark.parametrize("current", sorted(states.STATUSES))
def test_only_published_tasks_refuse_a_reset(store: Store, current: str) -> None:
    task = store.task()
    put_into(store, task, current)
    if current in {"published", "publishing"}:
        with pytest.raises(ApiError, match="400/110"):
            store.do(lambda tx: task_status.reset(tx, task, ASKED, clear_all=False, delete_models=True))
    else:
        store.do(lambda tx: task_status.reset(tx, task, ASKED, clear_all=False, delete_models=True))
        assert store.status(task) == "created"


def test_reason_and_message_are_overwritten_even_by_nothing(store: Store) -> None:
    task = store.task()
    said = task_status.Asked(company=COMPANY, user="somebody", reason="because", message="so")
    store.do(lambda tx: task_status.start(tx, task, said))
    assert store.do(lambda tx: tasks.row(tx, task, COMPANY))["status_message"] == "so"
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    found = store.do(lambda tx: tasks.row(tx, task, COMPANY))
    assert (found["status_reason"], found["status_message"]) == ("", "")


def test_a_second_start_keeps_the_time_of_the_first(store: Store) -> None:
    task = store.task()
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    first = store.do(lambda tx: tasks.row(tx, task, COMPANY))["started"]
    store.moment += 100
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    assert store.do(lambda tx: tasks.row(tx, task, COMPANY))["started"] == first
    store.do(lambda tx: task_status.end(tx, task, "completed", ASKED))
    assert store.do(lambda tx: tasks.row(tx, task, COMPANY))["active_duration"] == 100


def test_stopping_a_task_that_a_live_worker_runs_only_leaves_a_message(store: Store) -> None:
    task = store.task()
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    store.do(lambda tx: tasks.report_from_worker(tx, task, "host:0", COMPANY))
    store.do(lambda tx: task_status.stop(tx, task, FORCED))
    found = store.do(lambda tx: tasks.row(tx, task, COMPANY))
    assert (found["status"], found["status_message"]) == ("in_progress", "stopping")
    assert StatusChanged(task) in store.announced


def test_stopping_a_task_whose_worker_went_silent_stops_it(store: Store) -> None:
    task = store.task()
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    store.do(lambda tx: tasks.report_from_worker(tx, task, "host:0", COMPANY))
    store.moment += task_status.ALIVE_SECONDS + 1
    store.do(lambda tx: task_status.stop(tx, task, ASKED))
    assert store.status(task) == "stopped"


def test_stopping_a_queued_task_takes_it_out_of_its_queue(store: Store) -> None:
    queue, task = store.queue(), store.task()
    store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
    store.do(lambda tx: task_status.stop(tx, task, ASKED))
    assert store.order(queue) == []
    assert store.status(task) == "stopped"


def test_a_late_stop_after_enqueue_does_not_keep_the_task_from_running(store: Store) -> None:
    queue, task = store.queue(), store.task()
    store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
    store.do(lambda tx: task_status.end(tx, task, "stopped", FORCED))
    popper = popping.Popper(worker="w", ip="", claim=None, lease_seconds=120)
    entry = store.do(lambda tx: popping.pop(tx, [queue], popper))
    assert entry is not None
    assert entry.task == task
    assert store.status(task) == "queued"


def test_dequeue_leads_back_to_the_status_before_enqueue(store: Store) -> None:
    queue, task = store.queue(), store.task()
    put_into(store, task, "failed")
    store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
    store.do(lambda tx: task_status.dequeue(tx, task, ASKED))
    assert store.status(task) == "failed"
    assert store.order(queue) == []


def test_dequeue_does_not_turn_a_running_task_into_a_draft(store: Store) -> None:
    task = store.task()
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    with pytest.raises(ApiError, match="400/110"):
        store.do(lambda tx: task_status.dequeue(tx, task, ASKED))
    store.do(lambda tx: task_status.dequeue(tx, task, ASKED, new_status="in_progress"))
    assert store.status(task) == "in_progress"


def test_a_start_drops_the_queue_entry_in_the_same_transaction(store: Store) -> None:
    queue, task = store.queue(), store.task()
    store.do(lambda tx: task_status.enqueue(tx, task, queue, ASKED))
    store.do(lambda tx: task_status.start(tx, task, ASKED))
    assert store.order(queue) == []


def test_the_watchdog_stops_what_has_been_silent_for_too_long(store: Store) -> None:
    quiet, lively = store.task(), store.task()
    for task in (quiet, lively):
        store.do(lambda tx, task=task: task_status.start(tx, task, ASKED))
    store.moment += 7000
    store.do(lambda tx: tasks.ping(tx, lively, COMPANY))
    store.moment += 300
    assert store.do(lambda tx: task_status.stop_silent(tx, 7200)) == [quiet]
    found = store.do(lambda tx: tasks.row(tx, quiet, COMPANY))
    assert found["status"] == "stopped"
    assert found["status_reason"] == "Forced stop (non-responsive)"
    assert found["last_changed_by"] == "__apiserver__"
