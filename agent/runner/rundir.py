"""The run directory: the one truth about a run on this host, `<state>/runs/<task id>.<attempt>/`.

    claim.json       the claim and its phase (durable before the pop)
    task.json        the task as the server described it
    setup.json       what the executor needs besides the task
    executor.lock    held by the executor for as long as it lives
    launch.json      pid and start time of the executor, written by itself first of all
    stop.json        why the run was asked to end
    verdict.json     how it ended, as it is being told to the server
    stopping         there once the executor was asked to end, by us or by anybody
    console/         segments with the output, and how far they were shipped
    environment.json, user.json, outcome.json    written by the executor
    workspace/       checkout and environment

A run that nobody understands is moved to `<state>/runs/.unreadable/`.
docs/architecture.md says who writes what and when.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent.errors import BadTask
from agent.files import read_json, sync_directory, write_json
from agent.models import ExecutorSetup, Json, Outcome, Task
from agent.runner.outcome import Verdict
from agent.states import RunPhase
from agent.wire import check_types

log = logging.getLogger(__name__)

#: Of the claims that we write and understand.
VERSION = 1
#: Where runs are moved that nobody understands.
UNREADABLE = ".unreadable"
#: A run directory is made and claimed within milliseconds; without a claim after this time it never gets one.
SETTLED_SECONDS = 60.0

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_RUN = re.compile(r"[^.].*\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Our hold on one task: the content of `claim.json`. `token` makes a repeated pop harmless.

    `worker` is who runs it (with services mode and dynamic GPUs a sub-worker), `agent` the worker id of the daemon that
    sees it through, `devices` the GPUs it was given of those that its agent has. `started` is when the server says that
    this run began, from the phase `started` on.
    """

    task: str
    attempt: int
    worker: str
    queue: str
    queue_name: str
    token: str
    phase: RunPhase
    claimed_at_ms: int
    agent: str = ""
    devices: tuple[str, ...] = ()
    started: str = ""
    version: int = VERSION

    @classmethod
    def from_json(cls, data: Json) -> Claim:
        """KeyError, TypeError or ValueError where this is no claim that this version understands."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        claim = cls(**{**known, "phase": RunPhase(known["phase"]), "devices": tuple(known.get("devices") or ())})
        check_types(claim)
        if claim.version != VERSION or not claim.task:
            raise ValueError(f"version {claim.version}")
        return claim

    @property
    def owner(self) -> str:
        """The worker id of the daemon that sees the run through."""
        return self.agent or self.worker


def folder_for(task_id: str) -> str:
    """The first part of the name of a task's runs: its id, or what stands for one that is no name for a folder."""
    if _NAME.fullmatch(task_id):
        return task_id
    from _blake2 import blake2b

    return f"odd-{blake2b(task_id.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def about(claim: Claim, action: str = "") -> Json:
    """What a log record about the task of a claim carries (`extra=`)."""
    return {"task": claim.task, "action": action} if action else {"task": claim.task}


class RunDirectory:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.console = path / "console"
        self.workspace = path / "workspace"
        self.lock = path / "executor.lock"

    @property
    def task_id(self) -> str:
        return self.path.name.rpartition(".")[0]

    @property
    def attempt(self) -> int:
        return int(self.path.name.rpartition(".")[2])

    def age_seconds(self) -> float:
        """How long ago a file appeared in it, or went."""
        try:
            return time.time() - self.path.stat().st_mtime
        except OSError:
            return 0.0

    def has(self, name: str) -> bool:
        """Whether there is such a file, whatever is in it."""
        return (self.path / f"{name}.json").exists()

    def read_claim(self) -> Claim | None:
        """The claim; None if there is none yet, or none that this version understands (`recovery` sees to that)."""
        try:
            data = read_json(self.path / "claim.json")
            return Claim.from_json(data) if data else None
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def write_claim(self, claim: Claim) -> Claim:
        write_json(self.path / "claim.json", asdict(claim), durable=True)
        return claim

    def advance(self, claim: Claim, phase: RunPhase) -> Claim:
        return self.write_claim(replace(claim, phase=phase))

    def write_task(self, task: Task) -> None:
        write_json(self.path / "task.json", dict(task.raw))

    def read_task(self) -> Task | None:
        """The task; None if there is none, or none that can be read."""
        data = read_json(self.path / "task.json")
        try:
            return Task.from_wire(data) if data else None
        except BadTask as error:
            log.warning("%s: %s", self.path / "task.json", error.message)
            return None

    def write_setup(self, setup: ExecutorSetup) -> None:
        write_json(self.path / "setup.json", setup.to_json())

    def read(self, name: str) -> Json | None:
        """`environment`, `launch`, `stop`, `user`, `verdict`: the content of that file, or None."""
        return read_json(self.path / f"{name}.json")

    def read_outcome(self) -> Outcome | None:
        """How the run ended; None if nothing says so, or nothing that can be read."""
        data = read_json(self.path / "outcome.json")
        try:
            return Outcome.from_json(data) if data else None
        except (TypeError, ValueError) as error:
            log.warning("%s cannot be read: %s", self.path / "outcome.json", error)
            return None

    def write_outcome(self, outcome: Outcome) -> None:
        """Only where no executor does."""
        write_json(self.path / "outcome.json", outcome.to_json(), durable=True)

    def read_verdict(self) -> Verdict | None:
        """What was judged before; None if nothing was, or nothing that can be read: it is judged anew then."""
        data = read_json(self.path / "verdict.json")
        try:
            return Verdict.from_json(data) if data else None
        except (TypeError, ValueError) as error:
            log.warning("%s cannot be read: %s", self.path / "verdict.json", error)
            return None

    def write_verdict(self, verdict: Verdict) -> None:
        """Keep what is about to be told; before a retry is counted, it is on the disk."""
        value = {**verdict.to_json(), "at_ms": int(time.time() * 1000)}
        write_json(self.path / "verdict.json", value, durable=bool(verdict.retry))

    def request_stop(self, cause: str) -> None:
        """Note why the run is about to be stopped, for whoever reports its end. The first cause stays."""
        if self.read("stop") is None:
            write_json(self.path / "stop.json", {"cause": cause, "at_ms": int(time.time() * 1000)})

    def is_stopping(self) -> bool:
        """Whether the executor was asked to stop; it notes that before anything else."""
        return (self.path / "stopping").exists()

    def ensure(self) -> None:
        """Have the directory, even if somebody has removed it under the run: its end has to be noted and reported."""
        self.console.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Runs:
    """All run directories of a host; several agents share it and each minds its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, claim: Claim) -> tuple[RunDirectory, Claim]:
        """Make the directory of a new attempt, with its claim on the disk before this returns."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        attempt = 1 + max((run.attempt for run in self.of_task(claim.task)), default=0)
        while True:
            run = RunDirectory(self.root / f"{folder_for(claim.task)}.{attempt}")
            try:
                run.path.mkdir(mode=0o700)
                break
            except FileExistsError:
                attempt += 1
        run.console.mkdir(mode=0o700)
        claim = run.write_claim(replace(claim, attempt=attempt))
        sync_directory(self.root)
        return run, claim

    def of_task(self, task_id: str) -> list[RunDirectory]:
        return [run for run in self if run.task_id == folder_for(task_id)]

    def not_understood(self) -> list[RunDirectory]:
        """The runs whose claim nobody can read, apart from those that are just being made."""
        return [run for run in self if run.age_seconds() > SETTLED_SECONDS and run.read_claim() is None]

    def set_aside(self, run: RunDirectory) -> Path:
        """Move a run out of the way of everybody, with all that is in it; answers where it is now."""
        place = self.root / UNREADABLE
        place.mkdir(mode=0o700, exist_ok=True)
        kept = place / f"{run.path.name}.{time.time_ns() // 1000}"
        run.path.rename(kept)
        return kept

    def of_agent(self, agent: str) -> list[tuple[RunDirectory, Claim]]:
        """The runs of one agent, by its worker id, in the order in which they were claimed."""
        mine = [(run, claim) for run in self if (claim := run.read_claim()) is not None and claim.owner == agent]
        return sorted(mine, key=lambda pair: (pair[1].claimed_at_ms, pair[0].path.name))

    def __iter__(self) -> Iterator[RunDirectory]:
        if not self.root.is_dir():
            return
        for entry in sorted(os.listdir(self.root)):
            if _RUN.fullmatch(entry):
                yield RunDirectory(self.root / entry)
