"""Run directories for the executor, made and read the way a runner does it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.config import defaults
from agent.config.schema import AgentSettings, Settings
from agent.models import ExecutorSetup

TASK_ID = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a console."""

    at_ms: int
    kind: str
    text: str


def settings_in(state: Path, **changes: Any) -> Settings:
    """Default settings with every folder below `state`; `changes` go to the agent section.

    Nested groups are changed with a mapping: `package_manager={"type": "pip"}`.
    """
    base = defaults({})
    folders: dict[str, Any] = {
        "state_dir": str(state),
        "vcs_cache": {"path": str(state / "vcs-cache")},
        "venvs_cache": {"path": str(state / "venvs-cache"), "free_space_threshold_gb": 0.0},
        "pip_download_cache": {"path": str(state / "pip-download-cache")},
    }
    merged = dict(folders)
    for name, change in changes.items():
        known = folders.get(name)
        merged[name] = {**known, **change} if isinstance(known, dict) else change
    return replace(base, agent=_changed(base.agent, merged))


def _changed(agent: AgentSettings, changes: Mapping[str, Any]) -> AgentSettings:
    values = {
        name: replace(getattr(agent, name), **change) if isinstance(change, Mapping) else change
        for name, change in changes.items()
    }
    return replace(agent, **values)


@dataclass(kw_only=True)
class Run:
    """A run directory and, once started, the executor working on it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def start(self, *, optimize: bool = True, environ: Mapping[str, str] | None = None) -> Run:
        """Start the executor the way a runner does."""
        flags = ["-OO"] if optimize else []
        with (self.folder / "executor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-I", "-m", "agent.executor", str(self.folder)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=None if environ is None else dict(environ),
            )
        return self

    def wait(self, seconds: float = 60.0) -> dict[str, Any]:
        """The outcome, once the executor has ended."""
        assert self.process is not None
        self.process.wait(seconds)
        log = (self.folder / "executor.log").read_text()
        assert log == "", log
        assert self.process.returncode == 0
        return self.outcome()

    def execute(self, **options: Any) -> dict[str, Any]:
        """Start, wait, and answer the outcome."""
        with self.start(**options).ended_in_any_case():
            return self.wait()

    @contextlib.contextmanager
    def ended_in_any_case(self) -> Iterator[Run]:
        """A test that fails in between leaves nothing running."""
        try:
            yield self
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait(10)
                with contextlib.suppress(OSError, ValueError, KeyError):
                    os.killpg(self.json("user.json")["pgid"], signal.SIGKILL)

    def json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / name).read_text())
        return value

    def outcome(self) -> dict[str, Any]:
        return self.json("outcome.json")

    def records(self) -> list[Record]:
        """All records so far; what follows the last line feed of a segment is not one."""
        found = []
        for segment in sorted((self.folder / "console").glob("*.log")):
            data = segment.read_bytes()
            for line in data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]:
                at, kind, text = line.split("\t", 2)
                found.append(Record(at_ms=int(at), kind=kind, text=text))
        return found

    def output(self) -> list[str]:
        """What the task wrote, line by line."""
        return [record.text for record in self.records() if record.kind == "o"]

    def notices(self, kinds: str = "iwe") -> str:
        """What the executor said."""
        return "\n".join(record.text for record in self.records() if record.kind in kinds)


def make_run(
    state: Path,
    script: Mapping[str, Any],
    *,
    settings: Settings | None = None,
    task: Mapping[str, Any] | None = None,
    attempt: int = 1,
    **setup: Any,
) -> Run:
    """A run directory for a task with this `script` section."""
    folder = state / "runs" / f"{TASK_ID}.{attempt}"
    (folder / "console").mkdir(parents=True, mode=0o700)
    wire = {"id": TASK_ID, "name": "a task", "status": "in_progress", "script": dict(script), **(task or {})}
    (folder / "task.json").write_text(json.dumps(wire))
    prepared = ExecutorSetup(settings=(settings or settings_in(state)).to_json(), worker_id="host:cpu", **setup)
    (folder / "setup.json").write_text(json.dumps(prepared.to_json()))
    return Run(folder=folder)


def literal(code: str, *, requirements: Sequence[str] | None = None, **more: Any) -> dict[str, Any]:
    """The script section of a task that carries its whole code."""
    wanted = {"pip": "\n".join(requirements)} if requirements is not None else {}
    return {"binary": "python3.11", "entry_point": "main.py", "diff": code, "requirements": wanted, **more}


def wait_until(condition: Any, seconds: float = 20.0, what: str = "a condition") -> Any:
    """The first true value of `condition()`; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")
