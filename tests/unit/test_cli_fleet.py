"""What `clearml-agent list` makes of a server's replies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from agent.cli import fleet, fleet_tables
from agent.cli.fleet import MOST_ENTRIES, Gpus, queues_in, with_states, workers_in
from agent.cli.fleet_tables import queue_table, state_text, warnings
from agent.cli.listing import Form, form_for, tables
from agent.errors import UsageError

#: A Thursday.
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TASK = {"id": "t1", "name": "train it", "running_time": 7_500_000, "last_iteration": 3}


def wire(worker_id: str, *tags: str, **more: Any) -> dict[str, Any]:
    return {"id": worker_id, "tags": list(tags), "last_report_time": "2026-01-01T11:59:30+00:00", **more}


def queue(name: str, waiting: int, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{name}", "name": name, "num_tasks": waiting, **more}


def read(*wires: dict[str, Any]) -> tuple[fleet.Worker, ...]:
    return workers_in({"workers": list(wires)})


def ids(*names: str) -> list[str]:
    """In the order of the table, sub-workers indented."""
    return [("  " if worker.parent else "") + worker.id for worker in read(*map(wire, names))]


# --- states


@pytest.mark.parametrize(
    ("tags", "idle", "busy"),
    [
        ((), "idle", "running"),
        (("gpu-farm", "closed-source"), "idle", "running"),
        (("closed until 2026-01-05T08:00+00:00",), "closed until Mon 08:00", "running, closed until Mon 08:00"),
        (("closed",), "closed", "running, closed"),
        (("forced on until 2026-01-01T18:30+00:00",), "forced on until 18:30", "running, forced on until 18:30"),
        (("forced off",), "forced off", "running, forced off"),
        (("waiting: GPU 0 is in use",), "waiting: GPU 0 is in use", "running, waiting: GPU 0 is in use"),
        (("cordoned: GPU 1 is lost",), "cordoned: GPU 1 is lost", "running, cordoned: GPU 1 is lost"),
        (("paused: new disks",), "paused: new disks", "running, paused: new disks"),
        (("paused", "closed", "waiting: GPU 0 is in use"), "paused", "running, paused"),
        (("draining", "closed"), "draining", "running, draining"),
    ],
)
def test_state_is_said_in_the_words_of_the_tags(tags: tuple[str, ...], idle: str, busy: str) -> None:
    first, second = read(wire("w1", *tags), wire("w2", *tags, task=TASK))
    assert state_text(first, now=NOW, zone=UTC) == idle
    assert state_text(second, now=NOW, zone=UTC) == busy


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("2026-01-07T08:00+00:00", "Wed 09:00"),
        ("2026-01-08T08:00+00:00", "2026-01-08 09:00"),
        ("2025-12-31T08:00+00:00", "2025-12-31 09:00"),
        ("2026-01-01T23:30-05:00", "Fri 05:30"),
        ("2026-01-01T20:00", "21:00"),
        ("soon", "soon"),
    ],
)
def test_end_of_a_state_is_in_the_reader_s_time_and_as_short_as_it_can_be(until: str, said: str) -> None:
    (worker,) = read(wire("w", f"closed until {until}"))
    assert state_text(worker, now=NOW, zone=timezone(timedelta(hours=1))) == f"closed until {said}"


def test_an_agent_runs_while_a_sub_worker_does() -> None:
    workers = read(wire("h:0"), wire("h:0:service:t1", task=TASK), wire("h:1"))
    assert [(worker.id, worker.state) for worker in workers] == [
        ("h:0", "running"),
        ("h:0:service:t1", "running"),
        ("h:1", "idle"),
    ]


# --- order and kinship


def test_workers_are_sorted_as_people_count() -> None:
    assert ids("b:gpu10", "b:gpu2", "a:1", "B", "b:gpu1,2", "b:gpu1") == [
        *("B", "a:1", "b:gpu1", "b:gpu1,2", "b:gpu2", "b:gpu10"),
    ]


def test_sub_workers_stand_below_their_agent() -> None:
    assert ids("h:gpu10", "h:0:service:t9", "h:gpu2,3", "h:0", "h:dgpu2,3,10", "h:1", "h:gpu2.1", "h:gpu4") == [
        *("h:0", "  h:0:service:t9", "h:1"),
        *("h:dgpu2,3,10", "  h:gpu2,3", "  h:gpu2.1", "  h:gpu10", "h:gpu4"),
    ]


def test_sub_worker_without_its_agent_stands_alone() -> None:
    assert ids("h:0:service:t9", "g:gpu0", "h:dgpu0") == ["g:gpu0", "h:0:service:t9", "h:dgpu0"]


def test_an_agent_of_all_gpus_has_any_of_its_host_below_it() -> None:
    assert ids("h:gpu7", "h:dgpuall") == ["h:dgpuall", "  h:gpu7"]


# --- GPUs


@pytest.mark.parametrize(
    ("worker_id", "expected"),
    [
        ("h:gpu0,1", Gpus(names=("0", "1"), count=2)),
        ("h:dgpu0", Gpus(names=("0",), count=1)),
        ("h:gpu0.1", Gpus(names=("0.1",), count=1)),
        ("h:gpu0:3", Gpus(names=("0",), count=1)),
        ("h:gpuall", Gpus(names=("all",))),
        ("h:gpu0:service:t1", None),
        ("h:cpu:0", None),
        ("gpu0", None),
    ],
)
def test_gpus_are_read_from_the_id_where_nobody_measures(worker_id: str, expected: Gpus | None) -> None:
    assert fleet.gpus_of(worker_id, {}) == expected


def test_gpus_are_read_from_the_readings_where_there_are_any() -> None:
    stats = {
        "gpu_usage": [100, 33],
        "gpu_memory_used": [1024.0, 2048.0],
        "gpu_memory_free": [1024.0, 0.0],
        "cpu_usage": [5.0],
    }
    assert fleet.gpus_of("custom", stats) == Gpus(
        count=2, usage_percent=66.5, memory_used_mib=3072.0, memory_total_mib=4096.0
    )
    assert fleet.gpus_of("custom", {"cpu_usage": [5.0]}) is None
    partly = fleet.gpus_of("h:gpu0", {"gpu_usage": [None], "gpu_memory_used": [7]})
    assert partly == Gpus(names=("0",), count=1, memory_used_mib=7.0)


# --- for programs


def test_reply_keeps_its_own_keys_and_gains_ours() -> None:
    wires = [
        wire("h:gpu10", "cordoned: GPU 10 is lost", ip="10.0.0.1"),
        wire("h:gpu2", "mine", "closed until 2026-01-05T08:00+00:00", task=TASK),
    ]
    told = with_states({"workers": wires, "more": 1})
    assert told == {
        "workers": [
            {
                **wires[1],
                "state": "running, closed",
                "state_until": "2026-01-05T08:00+00:00",
                "state_why": None,
                "gpus": {
                    "names": ["2"],
                    "count": 1,
                    **dict.fromkeys(("usage_percent", "memory_used_mib", "memory_total_mib")),
                },
            },
            {
                **wires[0],
                "state": "cordoned",
                "state_until": None,
                "state_why": "GPU 10 is lost",
                "gpus": {
                    "names": ["10"],
                    "count": 1,
                    **dict.fromkeys(("usage_percent", "memory_used_mib", "memory_total_mib")),
                },
            },
        ],
        "more": 1,
    }


@pytest.mark.parametrize("reply", [{}, {"workers": None}, {"workers": []}])
def test_a_fleet_may_be_empty(reply: dict[str, Any]) -> None:
    assert with_states(reply)["workers"] == []
    assert tables(reply, {}, now=NOW) == "The server knows no worker.\n\nThere are no queues."


# --- queues


def test_queues_are_joined_from_both_replies() -> None:
    first = {"id": "t5", "name": "next one"}
    workers = read(
        wire("h:gpu0", queues=[queue("urgent", 0), queue("training", 3, next_task=first)]),
        wire("h:gpu1", "closed", queues=[queue("training", 3, next_task=first)]),
        wire("h:gpu2", queues=[{"id": "deleted"}]),
    )
    answer = {
        "queues": [
            {"id": "id-training", "name": "training", "tags": ["force_workers:on"], "entries": [{"task": "t5"}]},
            {"id": "id-urgent", "name": "urgent"},
            {"id": "id-lonely", "name": "lonely", "entries": [{"task": "t7"}, {"task": "t8"}]},
            {"id": "id-full", "name": "full", "entries": [{"task": "t9"}] * MOST_ENTRIES},
        ]
    }
    queues = queues_in(workers, answer)
    assert queue_table(queues).splitlines() == [
        "Queue     Waiting      Workers                  Tags              Next task",
        "deleted   ?            h:gpu2",
        "full      100 or more  nobody                                     t9",
        "lonely    2            nobody                                     t7",
        "training  3            h:gpu0, h:gpu1 (closed)  force_workers:on  t5 next one",
        "urgent    0            h:gpu0",
    ]
    assert warnings(workers, queues) == [
        "full: 100 or more tasks wait and no worker listens",
        "lonely: 2 tasks wait and no worker listens",
    ]


def test_of_many_listeners_some_are_named() -> None:
    workers = read(*(wire(f"h:gpu{number}", queues=[queue("q", 1)]) for number in range(12)))
    assert "h:gpu0, h:gpu1, h:gpu2 and 9 more" in queue_table(queues_in(workers, {}))


# --- for people


def test_worker_table_says_everything_in_a_line() -> None:
    stats = {"gpu_usage": [50, 60], "gpu_memory_used": [1024, 2048], "gpu_memory_free": [39936, 38912]}
    queues = [queue("urgent", 0), queue("training", 3)]
    workers = read(
        wire("h:gpu0,1", "draining", task=TASK, queues=queues, machine_stats=stats),
        wire("h:gpu2", queues=queues[1:], system_tags=["duplicate-id"]),
        {"id": "h:0"},
    )
    assert fleet_tables.worker_table(workers, now=NOW, zone=UTC).splitlines() == [
        "Worker                 State              Task         Running for  Queues                    "
        "GPUs                 Reported",
        "h:0                    idle                                                                   "
        "                     never",
        "h:gpu0,1               running, draining  t1 train it  2 h 5 min    urgent (0), training (3)  "
        "2, 55 %, 3.0/80 GiB  30 s ago",
        "h:gpu2 (duplicate-id)  idle                                         training (3)              "
        "gpu2                 30 s ago",
    ]
    assert warnings(workers, ()) == ["h:gpu2: two agents report under this id (duplicate-id); give one of them another"]


def test_names_cannot_steer_a_terminal_or_break_a_line() -> None:
    workers = read(wire("h", "waiting: \x1b[31mred", task={"id": "t", "name": "a\nb\u202e" + "x" * 100}))
    lines = fleet_tables.worker_table(workers, now=NOW).splitlines()
    assert len(lines) == 2
    assert "waiting: ?[31mred" in lines[1]
    assert "t a?b?xxx" in lines[1]
    assert "x…" in lines[1]
    queues = queues_in(
        workers, {"queues": [{"id": "q", "name": "night\x1b[2J\nshift", "tags": ["a\rb"], "entries": []}]}
    )
    shown = queue_table(queues).splitlines()
    assert len(shown) == 2
    assert "night?[2J?shift" in shown[1]
    assert "a?b" in shown[1]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_age_of_a_report_has_two_units_at_most(seconds: float, said: str) -> None:
    (worker,) = read(wire("w", last_report_time=(NOW - timedelta(seconds=seconds)).isoformat()))
    assert fleet_tables.worker_table([worker], now=NOW).endswith(f"{said} ago")


def test_tables_come_with_their_warnings_below() -> None:
    answer = {"queues": [{"id": "q", "name": "lonely", "entries": [{"task": "t"}]}]}
    text = tables({"workers": [wire("w")]}, answer, now=NOW)
    assert [paragraph.split()[0] for paragraph in text.split("\n\n")] == ["Worker", "Queue", "Warning:"]
    assert text.endswith("\nWarning: lonely: 1 task waits and no worker listens")


def test_a_terminal_gets_tables_and_scripts_get_yaml() -> None:
    assert form_for([], is_terminal=True) is Form.TABLE
    assert form_for([], is_terminal=False) is Form.YAML
    for form in Form:
        assert form_for([form], is_terminal=True) is form_for([form], is_terminal=False) is form
    with pytest.raises(UsageError, match="--yaml and --json exclude each other"):
        form_for([Form.YAML, Form.JSON], is_terminal=True)
