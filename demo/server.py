"""The embedded API server as a child process, ready to be talked to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.api import Account, Api, ApiError
from demo.processes import running, wait_until
from demo.state import Place

START_SECONDS = 30.0


class StartFailed(Exception):
    """Something did not come up; the end of its log is part of the message."""

    def __init__(self, what: str, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        super().__init__("\n".join([f"{what} did not start; the end of {log}:", *(f"    {line}" for line in lines)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: its account file, a client of it, and its process."""

    configuration: Path
    account: Account
    api: Api
    pid: int


def program(name: str) -> Path:
    """A console script of the environment that we run in."""
    return Path(sys.executable).parent / name


@contextmanager
def running_server(place: Place, *, extra: tuple[str, ...] = ()) -> Iterator[Server]:
    """Start the server on free ports of the loopback interface with credentials of its own."""
    data = place.folder("server")
    log = place.root / "log/server.log"
    ports = ("--host", "127.0.0.1", "--port", "0", "--files-port", "0")
    command = [str(program("clearml-apiserver")), *ports, "--data", str(data), *extra]
    with running(command, environment=place.environment, cwd=place.root, log=log, grace_seconds=10) as process:
        server = _wait_for(process, data / "clearml.conf", log)
        try:
            yield server
        finally:
            server.api.close()


def _wait_for(process: subprocess.Popen[bytes], configuration: Path, log: Path) -> Server:
    answering: list[Server] = []

    def ready() -> bool:
        if process.poll() is not None:
            raise StartFailed("the API server", log)
        if not configuration.exists():
            return False
        try:
            account = Account.from_file(configuration)
            api = Api(account)
            api("users.get_current_user")
        except (OSError, ApiError):  # written before the ports are open, or left by the server before this one
            return False
        answering.append(Server(configuration=configuration, account=account, api=api, pid=process.pid))
        return True

    if not wait_until(ready, seconds=START_SECONDS):
        raise StartFailed("the API server", log)
    return answering[0]
