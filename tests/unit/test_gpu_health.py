"""What a driver says of a GPU, judged: what is a fault, and when it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gpu.health import (
    NO_PAST,
    Condition,
    Device,
    Kind,
    Past,
    Xid,
    acknowledged,
    faults_of,
    grown,
    still_acknowledged,
)

WELL = Condition(
    gpu="GPU-a", action=0, uncorrected=0, pages_pending=False, rows_pending=False, rows_broken=False, instance=None
)
MUTE = Condition(gpu="GPU-a")
BROKEN = replace(WELL, action=1, rows_pending=True)


def kinds(past: Past, condition: Condition) -> list[Kind]:
    return [fault.kind for fault in faults_of(past, condition, label="0")]


def seen(past: Past, condition: Condition, *xids: Xid, now: float = 0.0) -> Past:
    return grown(past, [condition], xids, quiet=600, now=now)


def xid(number: int, *, at: float = 0.0, gi: int = 0xFFFFFFFF, ci: int = 0xFFFFFFFF) -> Xid:
    return Xid(gpu="GPU-a", number=number, at=at, gi=gi, ci=ci)


def test_what_a_driver_cannot_tell_is_no_fault() -> None:
    assert not kinds(seen(NO_PAST, MUTE), MUTE)
    assert not kinds(seen(NO_PAST, WELL), WELL)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        (replace(WELL, action=1), Kind.ACTION),
        (replace(WELL, action=99), Kind.ACTION),
        (replace(WELL, pages_pending=True), Kind.PAGES),
        (replace(WELL, rows_pending=True), Kind.ROWS),
        (replace(WELL, rows_broken=True), Kind.BROKEN_ROWS),
        (Condition(gpu="GPU-a", lost="fell off the bus"), Kind.LOST),
    ],
)
def test_each_word_of_a_driver_is_a_fault_of_its_own(condition: Condition, kind: Kind) -> None:
    assert kinds(NO_PAST, condition) == [kind]


def test_memory_errors_count_from_what_there_was_and_a_reset_begins_anew() -> None:
    past = seen(NO_PAST, replace(WELL, uncorrected=5))
    assert not kinds(past, replace(WELL, uncorrected=5))
    assert kinds(past, replace(WELL, uncorrected=6)) == [Kind.ECC]
    past = seen(past, replace(WELL, uncorrected=6))
    assert kinds(past, replace(WELL, uncorrected=6)) == [Kind.ECC]  # it does not become what there was
    past = seen(past, WELL)
    assert not kinds(past, WELL)
    assert kinds(past, replace(WELL, uncorrected=1)) == [Kind.ECC]


def test_an_xid_counts_at_least_until_the_driver_is_asked_again() -> None:
    past = seen(NO_PAST, WELL, xid(48))
    assert [fault.what for fault in faults_of(past, WELL)] == ["reported XID 48"]
    assert not kinds(seen(past, WELL), WELL)


def test_an_xid_stays_as_long_as_the_driver_wants_something_done() -> None:
    wants = replace(WELL, action=2)
    past = seen(NO_PAST, wants, xid(79))
    assert kinds(seen(past, wants, now=10_000), wants) == [Kind.ACTION, Kind.XID]


def test_where_the_driver_cannot_tell_an_xid_is_over_after_a_quiet_time_with_nothing_else_wrong() -> None:
    past = seen(seen(NO_PAST, MUTE), MUTE, xid(74, at=100), now=100)
    past = seen(past, MUTE, xid(74, at=500), now=500)
    assert kinds(seen(past, MUTE, now=1099), MUTE) == [Kind.XID]
    assert not kinds(seen(past, MUTE, now=1100), MUTE)
    pending = replace(MUTE, rows_pending=True)
    assert kinds(seen(past, pending, now=5000), pending) == [Kind.XID, Kind.ROWS]


def test_a_gpu_that_cannot_be_asked_has_not_recovered() -> None:
    past = seen(NO_PAST, WELL, xid(79))
    lost = Condition(gpu="GPU-a", lost="fell off the bus")
    past = seen(past, lost, now=10_000)
    assert kinds(past, lost) == [Kind.LOST]
    assert kinds(past, WELL) == [Kind.XID]  # until it has been asked


@pytest.mark.parametrize(
    ("instance", "gi", "ci", "concerns"),
    [
        (None, 7, 0, True),  # an agent that has all of the GPU
        ((7, 0), 7, 0, True),
        ((7, 0), 7, 0xFFFFFFFF, True),
        ((7, 1), 7, 0, False),
        ((8, 0), 7, 0, False),
        ((8, 0), 0xFFFFFFFF, 0xFFFFFFFF, True),
    ],
)
def test_an_xid_concerns_the_instance_that_it_names(
    instance: tuple[int, int] | None, gi: int, ci: int, concerns: bool
) -> None:
    assert xid(95, gi=gi, ci=ci).concerns(Condition(gpu="GPU-a", instance=instance)) is concerns
    assert not xid(95).concerns(Condition(gpu="GPU-b"))


def test_what_is_acknowledged_is_lived_with_until_it_is_over() -> None:
    past = seen(NO_PAST, WELL)
    broken = replace(BROKEN, uncorrected=3)
    past = acknowledged(seen(past, broken, xid(63)), [broken])
    assert not kinds(past, broken)
    assert kinds(past, replace(broken, uncorrected=4)) == [Kind.ECC]
    assert kinds(past, replace(broken, pages_pending=True)) == [Kind.PAGES]
    past = still_acknowledged(past, [broken])
    assert not kinds(past, broken)
    past = still_acknowledged(past, [Condition(gpu="GPU-a", lost="gone")])
    assert not kinds(past, broken)  # nobody could tell
    past = still_acknowledged(past, [WELL])
    assert kinds(past, BROKEN) == [Kind.ACTION, Kind.ROWS]


def test_what_is_lost_cannot_be_acknowledged() -> None:
    lost = Condition(gpu="GPU-a", lost="fell off the bus")
    assert kinds(acknowledged(NO_PAST, [lost]), lost) == [Kind.LOST]


@given(st.lists(st.tuples(st.sampled_from([13, 48, 79]), st.floats(0, 1e6)), max_size=50))
def test_however_often_an_error_comes_it_is_kept_once_and_the_last_one_counts(events: list[tuple[int, float]]) -> None:
    past = seen(NO_PAST, MUTE, *[xid(number, at=at) for number, at in events])
    last = dict(events)
    assert {one.number: one.at for one in past.xids} == last
    assert len(past.xids) == len(last)


def test_a_gpu_is_called_by_its_number_and_the_beginning_of_its_uuid() -> None:
    assert Device(label="3", uuid="GPU-12345678-0000").name == "GPU 3 (GPU-12345678…)"
    assert Device(label="3", uuid="").name == "GPU 3"
