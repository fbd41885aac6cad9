"""The agent on a server without our extensions: polling, named pops, and console lines checked by looking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import agent_on, console_of, create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.plain_server import plain_server

SCRIPT = """
for n in range(50):
    print(f"line {n}", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


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
