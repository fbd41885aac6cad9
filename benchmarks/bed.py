"""The test bed: a server of our own, directories for the agents, and tasks sent through a queue and read back."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant
from demo.api import Api, console_events, ended
from demo.processes import wait_until
from demo.server import Server, running_server
from demo.state import claimed_place
from demo.tasks import create, literal, project_named
from demo.watch import FINAL, epoch

TASK_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One task that has ended: its console events, and when what happened (epoch seconds)."""

    id: str
    status: str
    enqueued: float
    completed: float
    events: Sequence[dict[str, Any]] = field(repr=False)

    @property
    def lines(self) -> list[str]:
        """What the task printed."""
        return "".join(ended(event["msg"]) for event in self.printed).splitlines()

    @property
    def printed(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("level", "").lower() == "debug"]

    def said(self, word: str) -> float:
        """The time that a line `<word> <time>` of the task carries."""
        for line in self.lines:
            if match := re.match(rf"{word} (\d+\.\d+)$", line):
                return float(match[1])
        raise RuntimeError(f"task {self.id} ({self.status}) never said {word!r}; its console ends in {self.lines[-5:]}")

    @property
    def first_line(self) -> float:
        return self.said("first") - self.enqueued

    @property
    def end_to_completed(self) -> float:
        return self.completed - self.said("last")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A running server and a directory for everybody's homes."""

    server: Server
    folder: Path
    project: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def home(self, contestant: Contestant) -> Path:
        """A new, empty home directory: no caches, no state."""
        path = self.folder / f"{contestant.name}-{next(self.numbers)}"
        path.mkdir(parents=True)
        return path

    def client(self) -> Api:
        """A client for the use of one thread."""
        return Api(self.server.account)

    def enqueue(self, api: Api, queue: str, script: str, *, requirements: str = "") -> tuple[str, float]:
        """Put a task into a queue; its id, and the time just before the call that enqueued it."""
        made = create(api, "benchmark", literal(script, "script.py", requirements=requirements), project=self.project)
        now = time.time()
        api("tasks.enqueue", task=made, queue_name=queue)
        return made, now

    def wait(self, api: Api, task: str, enqueued: float, *, seconds: float = TASK_SECONDS) -> Ran:
        """Wait until a task has ended, and read it and its console."""
        status = ""

        def over() -> bool:
            nonlocal status
            status = api("tasks.get_all", id=[task], only_fields=["status"])["tasks"][0]["status"]
            return status in FINAL

        if not wait_until(over, seconds=seconds):
            raise RuntimeError(f"task {task} is still {status} after {seconds:.0f} s")
        described = api("tasks.get_all", id=[task])["tasks"][0]
        return Ran(
            id=task,
            status=described["status"],
            enqueued=enqueued,
            completed=epoch(described.get("completed") or described["status_changed"]),
            events=console_events(api, task),
        )

    def run(self, api: Api, queue: str, script: str, *, requirements: str = "") -> Ran:
        """One task from its queue to its end."""
        return self.wait(api, *self.enqueue(api, queue, script, requirements=requirements))


@contextmanager
def open_bed(state: Path) -> Iterator[Bed]:
    """Start the server in a directory of its own; remove everything at the end."""
    os.umask(0o077)
    with ExitStack() as stack:
        place = stack.enter_context(claimed_place(state, kind="bench", keep=False))
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=place.root, ignore_cleanup_errors=True))
        server = stack.enter_context(running_server(place))
        yield Bed(server=server, folder=Path(folder), project=project_named(server.api, "benchmarks"))
