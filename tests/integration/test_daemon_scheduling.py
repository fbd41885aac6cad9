"""Many tasks at once, GPUs shared out among them, and working hours: real daemons on a real server, as they are typed.

The GPUs are those of the fake NVML library; a task tells which of them it was given.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.agent import console_of, create_script, status_of, typed_daemon, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.fake_nvml import CONFIGS, variables

#: Says which GPUs it sees, then waits until the file that is named in its code appears.
SEES = """
import os, time
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("NVIDIA_VISIBLE_DEVICES"), flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.05)
"""


@pytest.fixture
def gpus(tmp_path: Path) -> dict[str, str]:
    """The environment of a host with eight GPUs on which nobody computes."""
    config = tmp_path / "idle.conf"
    config.write_text((CONFIGS / "8xh100.conf").read_text().partition("[gpu 3]")[0])
    return variables(config)


def _queue(server: ServerProcess, name: str) -> str:
    return str(server.call("queues.create", name=name)["id"])


def _workers(server: ServerProcess, pattern: str) -> dict[str, dict[str, Any]]:
    found = server.call("workers.get_all", last_seen=0, worker_pattern=pattern)["workers"]
    return {worker["id"]: worker for worker in found}


def _seen(server: ServerProcess, task: str) -> str:
    lines = wait_for(lambda: [line for line in console_of(server, task) if line.startswith("sees")], what="sees")
    return str(lines[0])


def _wait_running(server: ServerProcess, tasks: list[str]) -> None:
    for task in tasks:
        wait_for_status(server, task, "in_progress")
        _seen(server, task)


# --- services mode


def test_services_run_at_once_as_workers_of_their_own_and_no_more_than_allowed(
    server: ServerProcess, tmp_path: Path
) -> None:
    _queue(server, "services-a")
    gates = [str(tmp_path / f"gate{n}") for n in range(4)]
    with typed_daemon(server, tmp_path / "s", "--services-mode", "3", "--queue", "services-a"):
        tasks = [create_script(server, SEES.format(gate=gate), queue="services-a") for gate in gates]
        _wait_running(server, tasks[:3])
        assert _seen(server, tasks[0]) == "sees none none"
        assert status_of(server, tasks[3]) == "queued"
        ids = {f"typed:cpu:0:service:{task}" for task in tasks[:3]}
        wait_for(lambda: ids <= _workers(server, "typed:cpu:0*").keys(), what="each is a worker")
        shown = _workers(server, f"typed:cpu:0:service:{tasks[0]}")[f"typed:cpu:0:service:{tasks[0]}"]
        assert shown["task"]["id"] == tasks[0]
        described = wait_for_status(server, tasks[0], "in_progress")
        assert described["last_worker"] == f"typed:cpu:0:service:{tasks[0]}"
        # one is aborted, one ends by itself: the fourth gets a place, and both leave the list
        server.call("tasks.stop", task=tasks[0])
        wait_for_status(server, tasks[0], "stopped")
        _wait_running(server, tasks[3:])
        Path(gates[1]).touch()
        done = wait_for_status(server, tasks[1], "completed")
        assert done["status_reason"] == "worker execution done"
        gone = {f"typed:cpu:0:service:{tasks[0]}", f"typed:cpu:0:service:{tasks[1]}"}
        wait_for(lambda: not gone & _workers(server, "typed:cpu:0*").keys(), what="ended services leave the list")


def test_the_limit_of_services_follows_the_runtime_property(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "services-b")
    gate = str(tmp_path / "gate")
    with typed_daemon(server, tmp_path / "s", "--services-mode", "1", "--queue", "services-b"):
        worker = "typed:cpu:0"

        def published() -> Any:
            found = server.call("workers.get_runtime_properties", worker=worker)["runtime_properties"]
            return {item["key"]: item["value"] for item in found}.get("max_num_instances")

        wait_for(lambda: published() == "1", what="the limit is published")
        tasks = [create_script(server, SEES.format(gate=gate), queue="services-b") for _ in range(3)]
        _wait_running(server, tasks[:1])
        assert status_of(server, tasks[1]) == "queued"
        change = [{"key": "max_num_instances", "value": "2", "expiry": 600}]
        server.call("workers.set_runtime_properties", worker=worker, runtime_properties=change)
        _wait_running(server, tasks[1:2])
        assert status_of(server, tasks[2]) == "queued"
        Path(gate).touch()
        for task in tasks:
            wait_for_status(server, task, "completed")
    server.call(
        "workers.set_runtime_properties",
        worker="typed:cpu:0",
        runtime_properties=[{"key": "max_num_instances", "value": "", "expiry": 0}],
    )


def test_services_outlive_their_agent_and_are_adopted_and_count(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "services-c")
    gate = str(tmp_path / "gate")
    with typed_daemon(server, tmp_path / "s", "--services-mode", "2", "--queue", "services-c") as daemon:
        tasks = [create_script(server, SEES.format(gate=gate), queue="services-c") for _ in range(3)]
        _wait_running(server, tasks[:2])
        daemon.end(signal.SIGKILL)
        daemon.restart()
        time.sleep(1.0)
        assert [status_of(server, task) for task in tasks] == ["in_progress", "in_progress", "queued"]
        Path(gate).touch()
        for task in tasks:
            assert wait_for_status(server, task, "completed", "failed")["status"] == "completed"
            assert len([line for line in console_of(server, task) if line.startswith("sees")]) == 1


def test_the_end_of_the_agent_ends_all_of_its_services(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "services-d")
    with typed_daemon(server, tmp_path / "s", "--services-mode", "--queue", "services-d") as daemon:
        tasks = [create_script(server, SEES.format(gate="/nowhere"), queue="services-d") for _ in range(3)]
        _wait_running(server, tasks)
        assert daemon.end(signal.SIGINT) == 0
        for task in tasks:
            assert wait_for_status(server, task, "stopped")["status_reason"] == "user abort"
    assert not _workers(server, "typed:cpu:0*")


# --- dynamic GPUs


def test_each_task_gets_as_many_gpus_as_its_queue_says_and_nobody_elses(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    for name in ("quad-a", "dual-a", "any-a"):
        _queue(server, name)
    gate = str(tmp_path / "gate")
    queues = ("--queue", "quad-a=4", "dual-a=2", "any-a=1-4")
    with typed_daemon(server, tmp_path / "d", "--dynamic-gpus", "--gpus", "0-7", *queues, environ=gpus):
        quad = create_script(server, SEES.format(gate=gate), queue="quad-a")
        _wait_running(server, [quad])
        dual = create_script(server, SEES.format(gate=gate), queue="dual-a")
        _wait_running(server, [dual])
        first = create_script(server, SEES.format(gate=gate), queue="any-a")
        _wait_running(server, [first])
        late = create_script(server, SEES.format(gate=gate), queue="quad-a")
        given = [set(_seen(server, task).split()[1].split(",")) for task in (quad, dual, first)]
        assert [len(gpus) for gpus in given] == [4, 2, 2]
        assert len(set.union(*given)) == 8
        assert given[0] in ({"0", "1", "2", "3"}, {"4", "5", "6", "7"})  # one NUMA node
        time.sleep(0.5)
        assert status_of(server, late) == "queued"
        agent = "typed:dgpu0,1,2,3,4,5,6,7"
        children = {f"typed:gpu{','.join(sorted(gpus))}" for gpus in given}
        assert {agent, *children} <= _workers(server, "typed:*").keys()
        stats = wait_for(
            lambda: _workers(server, f"typed:gpu{','.join(sorted(given[1]))}").popitem()[1].get("machine_stats"),
            what="readings of its own GPUs",
        )
        assert len(stats["gpu_usage"]) == 2
        Path(gate).touch()
        for task in (quad, dual, first, late):
            wait_for_status(server, task, "completed")

        def available() -> str:
            found = server.call("workers.get_runtime_properties", worker=agent)["runtime_properties"]
            return next((str(item["value"]) for item in found if item["key"] == "available_gpus"), "")

        wait_for(lambda: available().count("_0") == 8, what="all GPUs are available again")


def test_a_large_task_is_not_starved_by_small_ones_of_higher_priority(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    _queue(server, "small-r")
    _queue(server, "large-r")
    gates = [str(tmp_path / f"gate{n}") for n in range(4)]
    environ = {**gpus, "CLEARML_AGENT__AGENT__DYNAMIC_GPUS__RESERVE_AFTER_SEC": "1"}
    queues = ("--gpus", "0,1", "--queue", "small-r=1", "large-r=2")
    with typed_daemon(server, tmp_path / "d", "--dynamic-gpus", *queues, environ=environ):
        small = [create_script(server, SEES.format(gate=gate), queue="small-r") for gate in gates[:2]]
        _wait_running(server, small)
        large = create_script(server, SEES.format(gate=gates[3]), queue="large-r")
        time.sleep(6.0)  # what cannot start is looked at every five seconds
        waiting = create_script(server, SEES.format(gate=gates[2]), queue="small-r")
        time.sleep(6.0)
        Path(gates[0]).touch()
        wait_for_status(server, small[0], "completed")
        time.sleep(7.0)
        assert status_of(server, waiting) == "queued"  # though a GPU is free
        Path(gates[1]).touch()
        _wait_running(server, [large])
        assert status_of(server, waiting) == "queued"
        for gate in gates[2:]:
            Path(gate).touch()
        for task in (large, waiting):
            wait_for_status(server, task, "completed")


def test_a_gpu_stays_given_while_its_task_runs_whatever_becomes_of_the_agent(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    """Two agents of one host share two GPUs; one of them is killed, and its task keeps its GPU."""
    _queue(server, "left")
    _queue(server, "right")
    gate = str(tmp_path / "gate")
    arguments = ("--dynamic-gpus", "--gpus", "0,1", "--queue")
    other = {**gpus, "CLEARML_WORKER_NAME": "second"}
    with (
        typed_daemon(server, tmp_path / "l", *arguments, "left=1", environ=gpus) as left,
        typed_daemon(server, tmp_path / "r", *arguments, "right=1-2", environ=other),
    ):
        one = create_script(server, SEES.format(gate=gate), queue="left")
        _wait_running(server, [one])
        left.end(signal.SIGKILL)
        two = create_script(server, SEES.format(gate=gate), queue="right")
        _wait_running(server, [two])
        gpus = [_seen(server, task).split()[1] for task in (one, two)]
        assert sorted(gpus) == ["0", "1"]  # the second would have taken both
        left.restart()
        third = create_script(server, SEES.format(gate=gate), queue="left")
        time.sleep(1.0)
        assert status_of(server, third) == "queued"
        Path(gate).touch()
        for task in (one, two, third):
            wait_for_status(server, task, "completed")


def test_an_agent_of_a_gpu_keeps_it_from_being_shared_out_while_it_lives(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    _queue(server, "fixed")
    _queue(server, "shared")
    with typed_daemon(server, tmp_path / "f", "--gpus", "0", "--queue", "fixed", environ=gpus):
        with typed_daemon(
            server, tmp_path / "d", "--dynamic-gpus", "--gpus", "0,1", "--queue", "shared=1-2", environ=gpus
        ):
            task = create_script(server, SEES.format(gate="/"), queue="shared")
            wait_for_status(server, task, "completed")
            assert _seen(server, task).split()[1] == "1"


def test_a_stranger_on_a_gpu_keeps_tasks_away_from_it(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "wary")
    queue = ("--gpus", "2,3", "--queue", "wary=1-2")
    busy = variables(CONFIGS / "8xh100.conf")  # a process computes on GPU 3
    with typed_daemon(server, tmp_path / "d", "--dynamic-gpus", *queue, environ=busy) as daemon:
        task = create_script(server, SEES.format(gate="/"), queue="wary")
        wait_for_status(server, task, "completed")
        assert _seen(server, task).split()[1] == "2"
        assert "GPU 3 is not given to tasks: it is used by python3 (4242)" in daemon.log.read_text()


def test_instances_of_a_gpu_are_units_of_their_own(server: ServerProcess, tmp_path: Path) -> None:
    _queue(server, "slices")
    gate = str(tmp_path / "gate")
    with typed_daemon(
        server,
        tmp_path / "d",
        "--dynamic-gpus",
        "--gpus",
        "0",
        "--queue",
        "slices=1",
        environ=variables(CONFIGS / "2xa100-mig.conf"),
    ):
        tasks = [create_script(server, SEES.format(gate=gate), queue="slices") for _ in range(2)]
        _wait_running(server, tasks)
        seen = [_seen(server, task).split()[1:] for task in tasks]
        assert all(cuda.startswith("MIG-") and label.startswith("0:") for cuda, label in seen)
        assert len({cuda for cuda, _ in seen}) == 2
        Path(gate).touch()
        for task in tasks:
            wait_for_status(server, task, "completed")


def test_agents_that_share_a_gpu_wait_for_their_part_of_its_memory(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    _queue(server, "parts")
    gate = str(tmp_path / "gate")
    arguments = ("--gpus", "0", "--gpu-share", "0.5", "--queue", "parts")
    with (
        typed_daemon(server, tmp_path / "a", *arguments, environ=gpus),
        typed_daemon(server, tmp_path / "a", *arguments, environ=gpus),
        typed_daemon(server, tmp_path / "a", *arguments, environ=gpus),
    ):
        tasks = [create_script(server, SEES.format(gate=gate), queue="parts") for _ in range(3)]
        _wait_running(server, tasks[:2])
        time.sleep(0.5)
        assert status_of(server, tasks[2]) == "queued"
        ids = {"typed:gpu0:0", "typed:gpu0:1", "typed:gpu0:2"}
        waiting = wait_for(
            lambda: [
                tag
                for worker in _workers(server, "typed:gpu0:*").values()
                for tag in worker["tags"]
                if tag.startswith("waiting: less than 50 % of GPU 0")
            ],
            what="the third says why it waits",
        )
        assert ids <= _workers(server, "typed:gpu0:*").keys()
        assert len(waiting) == 1
        Path(gate).touch()
        for task in tasks:
            wait_for_status(server, task, "completed")


def test_a_share_whose_memory_is_taken_says_so_and_waits(server: ServerProcess, tmp_path: Path) -> None:
    """40 of the 80 GiB of GPU 3 are used by somebody."""
    _queue(server, "tight")
    busy = variables(CONFIGS / "8xh100.conf")
    with typed_daemon(server, tmp_path / "a", "--gpus", "3", "--gpu-share", "0.75", "--queue", "tight", environ=busy):
        task = create_script(server, SEES.format(gate="/"), queue="tight")
        wait_for(
            lambda: any(
                tag.startswith("waiting: GPU 3 has 39.") and tag.endswith(" needed")
                for tag in _workers(server, "typed:gpu3:0")["typed:gpu3:0"]["tags"]
            ),
            what="it says what it waits for",
        )
        assert status_of(server, task) == "queued"
    with typed_daemon(server, tmp_path / "a", "--gpus", "3", "--gpu-share", "0.5", "--queue", "tight", environ=busy):
        wait_for_status(server, task, "completed")


# --- queues


def test_a_queue_is_followed_through_renaming_deletion_and_return(server: ServerProcess, tmp_path: Path) -> None:
    first, other = _queue(server, "followed"), _queue(server, "beside")
    with typed_daemon(server, tmp_path / "q", "--cpu-only", "--queue", "followed", "beside") as daemon:
        server.call("queues.update", queue=first, name="renamed")
        wait_for_status(server, create_script(server, SEES.format(gate="/"), queue="renamed"), "completed")
        server.call("queues.delete", queue=first, force=True)
        wait_for_status(server, create_script(server, SEES.format(gate="/"), queue="beside"), "completed")
        wait_for(lambda: "queue renamed has been deleted" in daemon.log.read_text(), what="it says so")
        again = _queue(server, "renamed")
        wait_for_status(server, create_script(server, SEES.format(gate="/"), queue="renamed"), "completed")
        listed = [queue["id"] for queue in _workers(server, "typed:cpu:0")["typed:cpu:0"]["queues"]]
        assert listed == [again, other]
        assert daemon.process.poll() is None


# --- working hours


def _hours_around(now: datetime, *, is_open: bool) -> str:
    """An entry that holds the present hour, or one that is far from it."""
    start = now if is_open else now + timedelta(hours=12)
    return f"{start.hour:02}-{(start.hour + 2) % 24:02} SUN-SAT"


def test_an_agent_out_of_hours_takes_nothing_until_it_is_forced_and_a_tag_beats_that(
    server: ServerProcess, tmp_path: Path
) -> None:
    queue = _queue(server, "hourly")
    closed = _hours_around(datetime.now(UTC), is_open=False)
    environ = {"CLEARML_AGENT_TIMEZONE": "UTC", "CLEARML_WORKER_ID": "typed:hours"}

    def tags() -> list[str]:
        return list(_workers(server, "typed:hours")["typed:hours"]["tags"])

    def force(value: str, **more: Any) -> None:
        change = [{"key": "force", "value": value, **more}]
        server.call("workers.set_runtime_properties", worker="typed:hours", runtime_properties=change)

    with typed_daemon(server, tmp_path / "h", "--queue", "hourly", "--uptime", closed, environ=environ):
        wait_for(lambda: any(tag.startswith("closed until 20") for tag in tags()), what="it says until when")
        task = create_script(server, SEES.format(gate="/"), queue="hourly")
        time.sleep(1.0)
        assert status_of(server, task) == "queued"
        server.call("queues.update", queue=queue, tags=["force_workers:off"])
        force("on", expiry=600)
        wait_for(lambda: any(tag.startswith("forced on until 20") for tag in tags()), what="it says that it is forced")
        time.sleep(0.5)
        assert status_of(server, task) == "queued"
        server.call("queues.update", queue=queue, tags=[])
        wait_for_status(server, task, "completed", seconds=10)
        force("on", expiry=0)
        wait_for(lambda: any(tag.startswith("closed until") for tag in tags()), what="it is closed again")
        later = create_script(server, SEES.format(gate="/"), queue="hourly")
        time.sleep(0.5)
        assert status_of(server, later) == "queued"
        server.call("queues.update", queue=queue, tags=["force_workers:on"])
        wait_for_status(server, later, "completed", seconds=10)


@pytest.mark.parametrize(("choice", "status"), [("finish", "completed"), ("stop", "stopped"), ("requeue", "queued")])
def test_what_runs_when_the_hours_end_is_finished_stopped_or_queued_again(
    server: ServerProcess, tmp_path: Path, choice: str, status: str
) -> None:
    """A worker that is only open because it is forced: the end of the force is the end of its hours."""
    name = f"late-{choice}"
    _queue(server, name)
    gate = str(tmp_path / "gate")
    closed = _hours_around(datetime.now(UTC), is_open=False)
    environ = {
        "CLEARML_AGENT_TIMEZONE": "UTC",
        "CLEARML_WORKER_ID": f"typed:{choice}",
        "CLEARML_AGENT_AT_CLOSING": choice,
        "CLEARML_AGENT_AT_CLOSING_GRACE_SEC": "0",
    }
    force = [{"key": "force", "value": "on", "expiry": 3}]
    server.call("workers.set_runtime_properties", worker=f"typed:{choice}", runtime_properties=force)
    with typed_daemon(server, tmp_path / "h", "--queue", name, "--uptime", closed, environ=environ) as daemon:
        task = create_script(server, SEES.format(gate=gate), queue=name)
        _wait_running(server, [task])
        if choice == "finish":
            time.sleep(4.0)
            assert status_of(server, task) == "in_progress"
            Path(gate).touch()
        found = wait_for_status(server, task, status, seconds=15)
        if choice == "stop":
            assert found["status_reason"] == "the working hours of the worker are over"
        if choice == "requeue":
            entries = server.call("queues.get_all", name=name)["queues"][0]["entries"]
            assert [entry["task"] for entry in entries] == [task]
            wait_for(lambda: not list((daemon.state / "runs").iterdir()), what="the run is over")
            server.call("tasks.delete", task=task, force=True)


def test_hours_that_cannot_be_read_are_refused_at_the_start(
    server: ServerProcess, tmp_path: Path, gpus: dict[str, str]
) -> None:
    from support.agent import TypedDaemon

    for arguments, code, said in (
        (("--uptime", "20-25 SUN"), 3, "character 4"),
        (("--uptime", "20 SUN", "--downtime", "20 MON"), 2, "exclude each other"),
        (("--services-mode", "0"), 2, "1 or more"),
        (("--dynamic-gpus", "--gpus", "0,1", "--queue", "quad=4"), 2, "the agent has 2 GPUs"),
        (("--dynamic-gpus", "--gpus", "0,1", "--queue", "half=0.5"), 2, "--gpu-share"),
        (("--dynamic-gpus", "--gpus", "0,1", "--queue", "plain"), 2, "NAME=MIN-MAX"),
        (("--gpus", "0", "--gpu-share", "1.5"), 2, "from 0.01 to 1"),
    ):
        daemon = TypedDaemon(server, tmp_path / "x", *arguments, environ=gpus)
        assert daemon.process.wait(20) == code, (arguments, daemon.log.read_text())
        assert said in daemon.log.read_text(), (arguments, daemon.log.read_text())
        daemon.log.unlink()
