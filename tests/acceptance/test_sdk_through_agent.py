"""A research script with the real SDK: written and tried by hand, cloned, edited, queued, and run by our agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import agent_on, console_of, wait_for_status
from support.apiserver import ServerProcess
from support.reference_agent import loopback_only

#: What the SDK has recorded of a person's run: the script, its packages, and the arguments it was called with.
SCRIPT = f"""
import argparse, os
os.environ.update({loopback_only()!r})  # the SDK would ask its vendor for news
from clearml import Task

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float, default=0.1)
arguments = parser.parse_args()
task = Task.init(project_name="Research", task_name="train", auto_connect_frameworks=False)
settings = task.connect(dict(layers=2, name="small"))
print("rate", arguments.rate, *settings.items(), "remote", not task.running_locally())
for step in range(3):
    task.get_logger().report_scalar("loss", "train", 1.0 / (step + 1), step)
task.upload_artifact("numbers", dict(rate=arguments.rate))
task.flush(wait_for_uploads=True)
print("the end")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server") as running:
        yield running


def test_parameters_edited_on_the_server_take_effect_in_the_run(server: ServerProcess, tmp_path: Path) -> None:
    task = str(
        server.call(
            "tasks.create",
            name="train",
            type="training",
            script={"binary": "python3", "entry_point": "train.py", "diff": SCRIPT, "requirements": {"pip": "clearml"}},
            hyperparams={
                "Args": {"rate": {"section": "Args", "name": "rate", "value": "0.5", "type": "float"}},
                "General": {"layers": {"section": "General", "name": "layers", "value": "7", "type": "int"}},
            },
        )["id"]
    )
    server.call("tasks.enqueue", task=task, queue_name="default")
    with agent_on(server, tmp_path / "state"):
        done = wait_for_status(server, task, "completed", "failed", seconds=110)
    console = console_of(server, task)
    assert done["status"] == "completed", "\n".join(console)
    assert "rate 0.5 ('layers', 7) ('name', 'small') remote True" in console
    assert console.count("the end") == 1
    curves = server.call("events.scalar_metrics_iter_histogram", task=task)
    assert curves["loss"]["train"]["y"] == pytest.approx([1.0, 1 / 2, 1 / 3])
    assert [artifact["key"] for artifact in done["execution"]["artifacts"]] == ["numbers"]
    requirements = done["script"]["requirements"]
    assert requirements["org_pip"] == "clearml"
    assert any(line.startswith("clearml==") for line in requirements["pip"].splitlines())
