"""The agent on a server without our extensions: polling, named pops, and console lines checked by looking."""

from __future__ import annotations

from pathlib import Path

from support.agent import agent_on, console_of, create_script, status_of, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.plain_server import plain_server

from agent.worker.presence import VERSION_TAG

SCRIPT = """
for n in range(50):
    print(f"line {n}", flush=True)
"""


def test_it_polls_at_its_interval_and_runs_what_it_finds(server: ServerProcess, tmp_path: Path) -> None:
    with (
        plain_server(server.api) as (url, calls),
        agent_on(server, tmp_path, "default", "second", url=url, polling_interval_seconds=0.2, create_queue=True),
    ):
        wait_for(lambda: calls["queues.peek_task"] >= 6, what="several rounds of polling")
        assert calls["queues.get_next_task"] == 0
        task = create_script(server, SCRIPT, queue="second")
        wait_for_status(server, task, "completed")
        assert console_of(server, task, level="DEBUG") == [f"line {n}" for n in range(50)]
        assert calls["queues.get_next_task"] == 1


def test_an_abort_is_noticed_by_polling(server: ServerProcess, tmp_path: Path) -> None:
    with (
        plain_server(server.api) as (url, _),
        agent_on(server, tmp_path, url=url, polling_interval_seconds=0.2, stop_grace_seconds=1.0),
    ):
        task = create_script(server, "import time\nprint('here', flush=True)\ntime.sleep(600)\n")
        wait_for(lambda: "here" in console_of(server, task), what="the first line")
        server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped", seconds=5)


def test_queue_tags_and_hours_work_without_runtime_properties_and_that_is_said_once(
    server: ServerProcess, tmp_path: Path
) -> None:
    queue = server.call("queues.create", name="tagged")["id"]
    with (
        plain_server(server.api) as (url, calls),
        agent_on(
            server,
            tmp_path,
            "tagged",
            url=url,
            polling_interval_seconds=0.2,
            worker_id="plain:0",
            downtime=("00-24 SUN-SAT",),
        ) as agent,
    ):
        task = create_script(server, SCRIPT, queue="tagged")
        wait_for(lambda: calls["queues.get_all"] >= 5, what="several rounds of polling")
        assert status_of(server, task) == "queued"
        assert calls["queues.peek_task"] == 0
        server.call("queues.update", queue=queue, tags=["force_workers:on"])
        wait_for_status(server, task, "completed")
        [worker] = server.call("workers.get_all", last_seen=0, worker_pattern="plain:0")["workers"]
        assert worker["tags"] == ["closed", VERSION_TAG]
        assert calls["workers.get_runtime_properties"] == 1
        assert agent.log.read_text().count("no runtime properties") == 1


def test_many_tasks_at_once_need_no_extension_of_the_server(server: ServerProcess, tmp_path: Path) -> None:
    server.call("queues.create", name="several")
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n"
    with (
        plain_server(server.api) as (url, _),
        agent_on(
            server,
            tmp_path,
            "several",
            url=url,
            polling_interval_seconds=0.2,
            setup={"services": 2},
            worker_id="plain:1",
        ),
    ):
        tasks = [create_script(server, wait, queue="several") for _ in range(3)]
        for task in tasks[:2]:
            wait_for_status(server, task, "in_progress")
        server.call("tasks.stop", task=tasks[0])
        wait_for_status(server, tasks[0], "stopped", seconds=10)
        wait_for_status(server, tasks[2], "in_progress")
        (tmp_path / "go").touch()
        for task in tasks[1:]:
            wait_for_status(server, task, "completed")


def test_gpus_are_shared_out_without_any_extension_of_the_server(server: ServerProcess, tmp_path: Path) -> None:
    server.call("queues.create", name="pairs")
    units = tuple({"label": str(n), "uuid": f"GPU-{n}", "gpu": n, "numa": None} for n in range(4))
    with (
        plain_server(server.api) as (url, _),
        agent_on(
            server,
            tmp_path,
            "pairs",
            url=url,
            polling_interval_seconds=0.2,
            worker_id="plain:dgpu0,1,2,3",
            gpu_leases_dir=str(tmp_path / "leases"),
            setup={"units": units, "wishes": ((2, 2),), "cpu_only": False},
        ),
    ):
        script = "import os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
        tasks = [create_script(server, script, queue="pairs") for _ in range(4)]
        for task in tasks:
            wait_for_status(server, task, "completed")
            assert console_of(server, task, level="DEBUG") in (["0,1"], ["2,3"])
