"""The two agents that are compared: how each is called, and what keeps it inside its own directory.

Both get the same server, the same command line and the same kind of home. `clearml-agent` runs with its environment
cache on, which is the faster of its settings, and with its daily look for updates off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo.api import Api
from demo.processes import MARK, end_all, marked, wait_until
from demo.server import Server, program

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """An agent program and the settings it needs on top of the common ones."""

    name: str
    title: str
    executable: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self, home: Path, server: Server, api_server: str | None = None) -> dict[str, str]:
        """The environment of everything that is started in a home directory (which is also its mark)."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLEARML_", "TRAINS_", "UV_CACHE", "PIP_CACHE", "XDG_", "PYTHON", "VIRTUAL_ENV"))
        }
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return {
            **kept,
            MARK: str(home),
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "XDG_CONFIG_HOME": configuration,
            "CLEARML_CONFIG_FILE": str(server.configuration),
            "CLEARML_API_HOST": api_server or server.account.api_server,
            "CLEARML_NO_DEFAULT_SERVER": "1",
            **self.settings,
        }


def ours() -> Contestant:
    return Contestant(name="ours", title="gpufleet", executable=program("clearml-agent"))


def reference(executable: Path, version: str) -> Contestant:
    """`clearml-agent` from the package index, in an environment of its own."""
    return Contestant(
        name="reference",
        title=f"clearml-agent {version}",
        executable=executable,
        settings={
            "CLEARML_AGENT__AGENT__DISABLE_AGENT_UPDATE_CHECK": "true",
            "CLEARML_AGENT__AGENT__VENVS_CACHE__PATH": '"~/.clearml/venvs-cache"',
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A running daemon: its queue, its worker id, and the directory that marks its processes."""

    contestant: Contestant
    queue: str
    worker: str
    home: Path
    pid: int

    def processes(self) -> list[int]:
        """The daemon and everything it has started."""
        return marked(str(self.home))


@contextmanager
def running_daemon(
    contestant: Contestant,
    home: Path,
    server: Server,
    *,
    api_server: str | None = None,
    options: Sequence[str] = ("--cpu-only",),
) -> Iterator[Daemon]:
    """Start a daemon for a queue of its own, wait until it has registered, end it and all its children."""
    home.mkdir(parents=True, exist_ok=True)
    name = f"{contestant.name}-{uuid.uuid4().hex[:12]}"
    environment = contestant.environment(home, server, api_server) | {"CLEARML_WORKER_ID": name}
    command = [str(contestant.executable), "daemon", "--foreground", *options, "--create-queue", "--queue", name]
    log = home / "daemon.log"
    api = Api(server.account)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if not wait_until(lambda: _registered(api, name), seconds=START_SECONDS):
            raise RuntimeError(f"{contestant.title} did not register; see {log}")
        yield Daemon(contestant=contestant, queue=name, worker=name, home=home, pid=process.pid)
    finally:
        api.close()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_all(str(home), grace_seconds=5)


def _registered(api: Api, worker: str) -> bool:
    return any(found["id"] == worker for found in api("workers.get_all", last_seen=0)["workers"])
