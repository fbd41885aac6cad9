"""A real daemon process on a real server, as `clearml-agent daemon` would have left it after its exec."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.settings import settings_for

from agent.models import WorkerSetup
from agent.worker.identity import file_name_of


def wait_for(
    condition: Callable[[], Any], *, seconds: float = 20.0, what: str = "", pause_seconds: float = 0.02
) -> Any:
    """Poll until `condition` gives something true; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(pause_seconds)
    return value


class AgentProcess:
    """One daemon. `state` survives it, so a second AgentProcess on the same state is the next agent."""

    def __init__(
        self,
        server: Any,
        state: Path,
        *queues: str,
        worker_id: str = "testhost:0",
        create_queue: bool = False,
        url: str | None = None,
        setup: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **agent: Any,
    ) -> None:
        settings = settings_for(
            url or server.api,
            key=server.access_key,
            secret=server.secret_key,
            state=state,
            files=server.files,
            worker_id=worker_id,
            **agent,
        )
        self.state = state
        self.worker_id = worker_id
        self.environ = dict(environ or {})
        self.setup = WorkerSetup(
            **{
                "settings": settings.to_json(),
                "queues": queues or ("default",),
                "cpu_only": True,
                "create_queue": create_queue,
                **(setup or {}),
            }
        )
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.state.mkdir(parents=True, exist_ok=True)
        setup_file = self.state / f"setup-{file_name_of(self.worker_id)}.json"
        setup_file.write_text(json.dumps(self.setup.to_json()))
        self.log = self.state / f"{file_name_of(self.worker_id)}.log"
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-OO", "-m", "agent.worker", str(setup_file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(self.state / "uv")),
                    **self.environ,
                },
            )

    @property
    def record(self) -> Path:
        return self.state / "workers" / f"{file_name_of(self.worker_id)}.lock"

    def wait_until_ready(self) -> AgentProcess:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}: {self.log.read_text()}")
            try:
                return bool(json.loads(self.record.read_text())["ready"])
            except (FileNotFoundError, ValueError):
                return False

        wait_for(ready, what=f"agent ready; log: {self.log}")
        return self

    def restart(self) -> AgentProcess:
        """The next agent of the same id and state."""
        self.process = self._start()
        return self

    def signal(self, number: signal.Signals, *, seconds: float = 30.0) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def runs(self) -> list[Path]:
        root = self.state / "runs"
        return sorted(root.iterdir()) if root.is_dir() else []


@contextmanager
def agent_on(server: Any, state: Path, *queues: str, **options: Any) -> Iterator[AgentProcess]:
    """A ready daemon that is ended (with its task) afterwards."""
    agent = AgentProcess(server, state, *queues, **options)
    try:
        yield agent.wait_until_ready()
    finally:
        if agent.process.poll() is None:
            agent.process.send_signal(signal.SIGINT)
            try:
                agent.process.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()


def create_script(
    server: Any, source: str, *, queue: str | None = "default", name: str = "a script", **script: Any
) -> str:
    """A task that runs `source`; enqueued unless `queue` is None. Returns its id."""
    fields = {"binary": "python3", "entry_point": "script.py", "working_dir": ".", "diff": source, **script}
    task = str(server.call("tasks.create", name=name, type="training", script=fields)["id"])
    if queue is not None:
        server.call("tasks.enqueue", task=task, queue_name=queue)
    return task


def status_of(server: Any, task: str) -> str:
    return str(server.call("tasks.get_by_id", task=task)["task"]["status"])


def wait_for_status(server: Any, task: str, *wanted: str, seconds: float = 30.0) -> dict[str, Any]:
    """The task as soon as it is in one of these states."""
    look: dict[str, Any] = {}

    def reached() -> bool:
        look.update(server.call("tasks.get_by_id", task=task)["task"])
        return look["status"] in wanted

    wait_for(reached, seconds=seconds, what=f"{wanted}, but {look.get('status')}: {look.get('status_reason')}")
    return look


def console_of(server: Any, task: str, *, level: str | None = None) -> list[str]:
    """The lines of a task's console on the server, oldest first; `level` "DEBUG" is what the task itself wrote."""
    lines: list[str] = []
    after = 0
    while True:
        page = server.call(
            "events.get_task_log", task=task, from_timestamp=after, navigate_earlier=False, order="asc", batch_size=1000
        )["events"]
        if not page:
            return lines
        for event in page:
            if level is None or event.get("level") == level:
                lines.extend(event["msg"].split("\n"))
        after = page[-1]["timestamp"]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


class TypedDaemon:
    """`clearml-agent daemon ARGUMENTS --foreground`, as a person types it, with a state directory of its own."""

    def __init__(self, server: Any, state: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.state = state
        self.log = state / "typed.log"
        self._command = [str(Path(sys.executable).parent / "clearml-agent"), "daemon", *arguments, "--foreground"]
        self._environ = {
            **os.environ,
            "CLEARML_CONFIG_FILE": str(server.conf_path),
            "STATE_DIRECTORY": str(state),
            "CLEARML_WORKER_NAME": "typed",
            "CLEARML_AGENT_GPU_LEASES_DIR": str(state.parent / "leases"),
            **(environ or {}),
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True, env=self._environ)

    def wait_until_ready(self) -> TypedDaemon:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}: {self.log.read_text()}")
            return "listens to" in self.log.read_text()

        wait_for(ready, what=f"agent ready; log: {self.log}")
        return self

    def restart(self) -> TypedDaemon:
        """The next agent with the same arguments, once this one is gone."""
        before = self.log.read_text().count("listens to")
        self.process = self._start()
        wait_for(lambda: self.log.read_text().count("listens to") > before, what="the next agent is ready")
        return self

    def end(self, number: signal.Signals = signal.SIGINT, *, seconds: float = 30.0) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def typed_daemon(
    server: Any, state: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[TypedDaemon]:
    """A ready daemon from the command line that is ended (with its tasks) afterwards."""
    daemon = TypedDaemon(server, state, *arguments, environ=environ)
    try:
        yield daemon.wait_until_ready()
    finally:
        if daemon.process.poll() is None:
            daemon.end()
