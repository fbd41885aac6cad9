"""The parts of the demo that decide: what a whole console is, who runs what, and what has been shown already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.gpu.wire import inventory_from_json
from demo.agents import QUICK, TRAINING, supervisor_configuration, topology
from demo.repository import Repository
from demo.state import Place
from demo.tasks import DemoTask, check_console, demo_tasks
from demo.watch import ConsoleTail, epoch
from supervisor_gen.plan import plan_host
from supervisor_gen.topology import topology_from

SCRIPT = DemoTask(name="x", queue=QUICK, script={}, status="completed", steps=3, contains=("hello",))
WHOLE = ["begin 12.5", "hello", *(f"step {n:04d} of 3, square {n}" for n in (1, 2, 3)), "end"]


def test_a_whole_console_has_no_faults_and_tells_when_it_began() -> None:
    console = check_console("\n".join(WHOLE), SCRIPT)
    assert (console.began, console.faults) == (12.5, ())


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (WHOLE[1:], "0 begin lines"),
        (WHOLE[:-1], "0 end lines"),
        ([*WHOLE, "end"], "2 end lines"),
        ([line for line in WHOLE if line != "hello"], "no line 'hello'"),
        ([line for line in WHOLE if "0002" not in line], "2 numbered lines (or another order) instead of 3"),
        ([*WHOLE, "step 0003 of 3, square 3"], "4 numbered lines (or another order) instead of 3"),
        ([line[:-9] if "0002" in line else line for line in WHOLE], "2 numbered lines (or another order) instead of 3"),
    ],
)
def test_a_console_that_is_not_whole_is_told_from_a_whole_one(lines: list[str], fault: str) -> None:
    assert fault in check_console("\n".join(lines), SCRIPT).faults


def test_three_tasks_use_both_queues_and_one_is_meant_to_fail() -> None:
    tasks = demo_tasks(
        Repository(url="http://127.0.0.1:1/x.git", branch="main", commit="c", diff="diff --git a/x b/x\n")
    )
    assert {task.queue for task in tasks} == {QUICK, TRAINING}
    assert [task.status for task in tasks] == ["completed", "completed", "failed"]


@pytest.mark.parametrize("gpus", [(), (0,), (0, 1, 2)])
def test_every_queue_is_served_whatever_gpus_there_are(gpus: tuple[int, ...]) -> None:
    inventory = inventory_from_json({"gpus": [{"index": index} for index in gpus]})
    declared = topology_from(topology(gpus, Path("/tmp/clearml.conf")), file="topology.conf")
    agents = plan_host("demo", inventory, declared).agents
    assert len(agents) == (len(gpus) or 2)
    for queue in (QUICK, TRAINING):
        assert all(queue in agent.settings.queues for agent in agents)


def test_supervisor_configuration_survives_a_percent_sign_and_a_blank_in_a_path() -> None:
    place = Place(root=Path("/tmp/a %(b)s"), home=Path("/tmp/home"), environment={})
    assert "pidfile=/tmp/a %%(b)s/supervisord.pid" in supervisor_configuration(place)


def test_no_control_socket_where_its_path_would_be_too_long() -> None:
    place = Place(root=Path("/tmp") / ("x" * 100), home=Path("/tmp/home"), environment={})
    assert "unix_http_server" not in supervisor_configuration(place)


class FakeServer:
    """Answers `events.get_task_log` like the server: strictly younger than, oldest first."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, endpoint: str, *, from_timestamp: int, **_: Any) -> dict[str, Any]:
        assert endpoint == "events.get_task_log"
        return {"events": [event for event in self.events if event["timestamp"] > from_timestamp]}

    def print(self, timestamp: int, text: str) -> None:
        self.events.append({"timestamp": timestamp, "level": "DEBUG", "msg": text})


def test_lines_that_share_a_time_are_each_shown_once_whenever_they_arrive() -> None:
    server, tail = FakeServer(), ConsoleTail(task="t")
    shown = []
    for timestamp, text in [(10, "a\nb\n"), (10, "c\n"), (10, "c\n"), (11, "d"), (12, "e\n"), (12, "f\n")]:
        server.print(timestamp, text)
        shown += [line for _, line in tail.read(server)]  # type: ignore[arg-type]
    assert shown == ["a", "b", "c", "c", "d", "e", "f"]
    assert list(tail.read(server)) == []  # type: ignore[arg-type]


def test_times_of_the_server_are_read_with_and_without_a_zone() -> None:
    assert epoch("1970-01-01T00:00:01.500000") == epoch("1970-01-01T00:00:01.500000+00:00") == 1.5
