"""A real server in a process of its own, on free ports of loopback, for tests of everything that talks to one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

START_SECONDS = 30.0
STOP_SECONDS = 15.0


class CallError(Exception):
    """The server refused a call."""

    def __init__(self, endpoint: str, status: int, meta: Mapping[str, Any]) -> None:
        self.code = meta.get("result_code", status)
        self.subcode = meta.get("result_subcode", 0)
        self.text = meta.get("result_msg", "")
        self.meta = meta
        super().__init__(f"{endpoint}: {self.code}/{self.subcode} {self.text}")

    @property
    def codes(self) -> tuple[int, int]:
        """HTTP status and sub-code."""
        return (self.code, self.subcode)


class ServerProcess:
    """`with ServerProcess() as server: server.call("tasks.create", name="...", type="training")`.

    `api` and `files` are addresses, `conf_path` the ready clearml.conf, `data` the data directory. A directory that was
    passed in is kept, otherwise a temporary one is removed at the end.
    """

    def __init__(
        self, data: Path | None = None, *, env: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="apiserver-") if data is None else None
        self.data = data or Path(self._temporary.name) / "data"  # type: ignore[union-attr]
        self._env = {**os.environ, **(env or {})}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)  # it is started dozens of times
        self._arguments = arguments
        self._ports = ("0", "0")
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self.process: subprocess.Popen[str]
        self.log = ""

    # --- life

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def start(self) -> None:
        """Start it and wait until it listens."""
        port, files_port = self._ports
        self._log_path = self.data.parent / f"{self.data.name}.log"
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "apiserver",
            "--data",
            str(self.data),
            "--port",
            port,
            "--files-port",
            files_port,
        ]
        with self._log_path.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *self._arguments], stdout=subprocess.PIPE, stderr=log, text=True, env=self._env
            )
        lines = self._first_lines()
        self.api, self.files, self.conf_path = lines[0], lines[1], Path(lines[2])
        text = self.conf_path.read_text()
        self.access_key = _value(text, "access_key")
        self.secret_key = _value(text, "secret_key")

    def _first_lines(self) -> list[str]:
        assert self.process.stdout is not None
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        try:
            lines = [self.process.stdout.readline() for _ in range(3)]
        finally:
            timer.cancel()
        if not lines[2]:
            self.process.wait()
            self.process.stdout.close()
            raise RuntimeError(f"server did not start ({self.process.returncode}): {self._log_path.read_text()}")
        return [line.split(maxsplit=2)[-1].strip() for line in lines]

    def stop(self) -> int:
        """Stop it as an operator would; returns the exit code."""
        self._close_sessions()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self._finish()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()
        self._close_sessions()
        self._finish()

    def restart(self) -> None:
        """Start it again, on the same ports, after `stop` or `kill`; stops it first when it runs."""
        if self.process.poll() is None:
            self.stop()
        self._ports = (self.api.rpartition(":")[2], self.files.rpartition(":")[2])
        self.start()

    def _finish(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log = self._log_path.read_text()

    def _close_sessions(self) -> None:
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        self._local = threading.local()

    # --- calls

    def call(self, endpoint: str, /, **body: Any) -> dict[str, Any]:
        """Call an endpoint with a token of our own; `data` of the reply, or CallError."""
        return self.call_as(self.token(), endpoint, body)

    def token(self) -> str:
        """A token for this thread's session, made with the credentials once."""
        if not hasattr(self._local, "token"):
            reply = self.session().get(f"{self.api}/auth.login", auth=(self.access_key, self.secret_key), timeout=30)
            self._local.token = reply.json()["data"]["token"]
        token: str = self._local.token
        return token

    def forget_tokens(self) -> None:
        """Log in anew with the next call, in every thread."""
        self._local = threading.local()

    def call_as(self, token: str, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call an endpoint with this token."""
        headers = {"Authorization": f"Bearer {token}"}
        reply = self.session().post(f"{self.api}/{endpoint}", json=dict(body), headers=headers, timeout=60)
        envelope = reply.json()
        if reply.status_code != 200:
            raise CallError(endpoint, reply.status_code, envelope["meta"])
        data: dict[str, Any] = envelope["data"]
        return data

    def session(self) -> requests.Session:
        """The connection pool of this thread."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session

    # --- shorthands

    def new_task(self, name: str = "a task", **fields: Any) -> str:
        """A draft."""
        task: str = self.call("tasks.create", name=name, type=fields.pop("type", "training"), **fields)["id"]
        return task

    def new_queue(self, name: str) -> str:
        """A queue."""
        queue: str = self.call("queues.create", name=name)["id"]
        return queue

    def status(self, task: str) -> str:
        """The status of a task."""
        status: str = self.call("tasks.get_all", id=[task], only_fields=["status"])["tasks"][0]["status"]
        return status

    def wait_until(self, condition: Any, *, seconds: float = 10.0) -> Any:
        """What `condition()` returns once that is true; fails after a deadline."""
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise AssertionError("condition did not come true in time")
            with contextlib.suppress(InterruptedError):
                time.sleep(0.01)
        return result


def _value(text: str, name: str) -> str:
    found = re.search(rf'{name}\s*[:=]\s*"([^"]+)"', text)
    assert found is not None, f"{name} is not in the configuration file"
    return found[1]
