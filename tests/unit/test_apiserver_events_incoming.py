"""Which events are accepted, which are refused, and what is filled in."""

import pytest

from apiserver.events.incoming import BatchRefusedError, EventType, Standing, judge, owners_in

OPEN = {"t1": Standing.OPEN, "locked": Standing.LOCKED}


def judged(*items, standings=OPEN):
    return judge(items, standings, worker="host", now_ms=1_700_000_000_000)


def scalar(**changes):
    return {
        "type": "training_stats_scalar",
        "task": "t1",
        "iter": 3,
        "metric": "m",
        "variant": "v",
        "value": 1.5,
    } | changes


@pytest.mark.parametrize(
    ("event", "refusal"),
    [
        ({"task": "t1"}, "Event must have a 'type' field"),
        ({"type": "", "task": "t1"}, "Event must have a 'type' field"),
        ({"type": "rumour", "task": "t1"}, "Invalid event type rumour"),
        ({"type": "log", "task": "t1", "model_event": True}, "Log events are not supported for models"),
        ({"type": "log"}, "Event must have a 'task' field"),
        ({"type": "log", "task": "gone"}, "Invalid task id gone"),
        ({"type": "plot", "task": "gone", "model_event": True}, "Invalid model id gone"),
        ({"type": "log", "task": "locked"}, "Invalid task id locked"),
        (scalar(iter=2**63), f"Invalid iteration {2**63}"),
        (scalar(iter="three"), "Invalid iteration three"),
        (scalar(value="high"), "Scalar value must be a number"),
        ({"type": "log", "task": "t1", "event_id": "x" * 65}, "Event id is longer than 64 characters"),
    ],
)
def test_each_kind_of_bad_event_is_counted_under_its_text(event, refusal):
    result = judged(event, scalar())
    assert result.refusals == {refusal: 1}
    assert len(result.accepted) == 1


def test_blanks_in_a_type_are_underscores():
    assert judged({"type": "training stats scalar", "task": "t1"}).accepted[0].type is EventType.SCALAR


def test_a_locked_task_takes_events_that_may_be_added_to_locked_ones():
    assert judged({"type": "log", "task": "locked", "allow_locked": True}).refused == 0


def test_missing_members_get_their_defaults():
    (event,) = judged({"type": "log", "task": "t1", "msg": "x", "method": "get"}).accepted
    assert (event.timestamp, event.worker, event.metric, event.variant) == (1_700_000_000_000, "host", "", "")
    assert event.content == {"msg": "x"}


def test_the_old_name_of_the_timestamp_is_understood():
    assert judged({"type": "log", "task": "t1", "ts": 12}).accepted[0].timestamp == 12


def test_a_time_that_is_no_time_is_replaced_by_now():
    assert judged({"type": "log", "task": "t1", "timestamp": 1e300}).accepted[0].timestamp == 1_700_000_000_000


def test_a_lone_surrogate_does_not_reach_the_store():
    (event,) = judged(scalar(metric="a\ud83d")).accepted
    assert event.metric == "a?"


def test_identity_ignores_value_and_time_but_not_names_and_iteration():
    first, second, other = judged(scalar(), scalar(value=9, timestamp=5), scalar(iter=4)).accepted
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize(
    ("items", "subcode"),
    [
        ([], 17),
        ([{"type": "log", "task": "t1"}, 5], 18),
        ([{"type": "log", "task": "t1"}, {"type": "plot", "task": "t1", "model_event": True}], 12),
        ([{"type": "log", "task": "t1"}, {"type": "log", "task": "t1", "allow_locked": True}], 12),
    ],
)
def test_some_batches_are_refused_as_a_whole(items, subcode):
    with pytest.raises(BatchRefusedError) as refused:
        owners_in(items)
    assert refused.value.subcode == subcode


def test_owners_are_told_apart_by_the_kind_of_event():
    owners = owners_in([scalar(), scalar(task="m1", model_event=True), scalar(task="t2")])
    assert owners.tasks == {"t1", "t2"}
    assert owners.models == {"m1"}
