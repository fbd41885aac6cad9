"""The three tasks of the demo: what each is made of, how it should end, and what its console must contain."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from demo.agents import QUICK, TRAINING
from demo.api import Api
from demo.repository import REQUIREMENTS, STEPS, Repository

PROJECT = "demo"

SCRIPT = """\
import os
import sys
import time

print("begin", repr(time.time()), flush=True)
print("python", sys.version.split()[0], "runs task", os.environ["CLEARML_TASK_ID"])
for step in range(1, 201):
    print(f"step {step:04d} of 200, square {step * step}")
print("end")
"""

FAILING = """\
import sys
import time

print("begin", repr(time.time()), flush=True)
for step in range(1, 201):
    print(f"step {step:04d} of 200, all is well", flush=True)
    time.sleep(0.002)
print("end")
sys.exit(3)
"""

HELLO = """\
import platform
import time

print("begin", repr(time.time()), flush=True)
print("hello from", platform.node())
print("end")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTask:
    """One task: its name and queue, the `script` object that the server stores, and the end that is right for it."""

    name: str
    queue: str
    script: dict[str, Any]
    status: str
    steps: int
    contains: tuple[str, ...] = ()
    reason: str = ""


def demo_tasks(repository: Repository) -> tuple[DemoTask, ...]:
    return (
        DemoTask(
            name="repository",
            queue=TRAINING,
            script=_script_of_repository(repository),
            status="completed",
            steps=STEPS,
            contains=("trained 1,234,567 parameters from a change that was never committed",),
        ),
        DemoTask(name="script", queue=QUICK, script=literal(SCRIPT, "script.py"), status="completed", steps=200),
        DemoTask(
            name="failing",
            queue=QUICK,
            script=literal(FAILING, "failing.py"),
            status="failed",
            steps=200,
            reason="worker execution exit code 3",
        ),
    )


def _script_of_repository(repository: Repository) -> dict[str, Any]:
    return {
        "binary": "python3",
        "repository": repository.url,
        "branch": repository.branch,
        "version_num": repository.commit,
        "entry_point": "train.py",
        "working_dir": ".",
        "diff": repository.diff,
        "requirements": {"pip": REQUIREMENTS},
    }


def literal(text: str, name: str, *, requirements: str = "") -> dict[str, Any]:
    """A script without a repository: the server keeps its whole text where a diff would be."""
    return {
        "binary": "python3",
        "repository": "",
        "entry_point": name,
        "working_dir": ".",
        "diff": text,
        "requirements": {"pip": requirements},
    }


def create(api: Api, name: str, script: dict[str, Any], *, project: str) -> str:
    """Make a draft task and answer its id."""
    created = api("tasks.create", name=name, type="training", project=project, script=script)
    return str(created["id"])


def project_named(api: Api, name: str) -> str:
    """The id of the project of this name, made when there is none."""
    found = api("projects.get_all", name=f"^{re.escape(name)}$", only_fields=["id"])["projects"]
    return str(found[0]["id"] if found else api("projects.create", name=name, description="")["id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What a console says about the run it belongs to, and what is wrong with it (nothing, when it is whole)."""

    began: float | None
    faults: tuple[str, ...]


def check_console(text: str, task: DemoTask) -> Console:
    """Every numbered line once and in order, one `begin`, one `end`, and the lines that show which code ran."""
    lines = text.splitlines()
    begins = [line for line in lines if line.startswith("begin ")]
    steps = [int(line[5:9]) for line in lines if re.match(r"step \d{4} of \d+, \S+ \S", line)]
    faults = []
    if len(begins) != 1:
        faults.append(f"{len(begins)} begin lines")
    if steps != list(range(1, task.steps + 1)):
        faults.append(f"{len(steps)} numbered lines (or another order) instead of {task.steps}")
    if lines.count("end") != 1:
        faults.append(f"{lines.count('end')} end lines")
    faults += [f"no line {wanted!r}" for wanted in task.contains if wanted not in lines]
    return Console(began=float(begins[0].split()[1]) if begins else None, faults=tuple(faults))
