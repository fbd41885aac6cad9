"""`clearml-agent` as a process, with a home and an environment of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.http_stub import Answer, envelope

Result = subprocess.CompletedProcess[str]

KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TERM", "PYTHONPATH")
#: A payload without expiry, in the form of a JWT.
TOKEN = "e30.e30.c2ln"


def environment(home: Path, **variables: str) -> dict[str, str]:
    """A clean environment with this home, and some more variables."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "HOME": str(home), **variables}


def run_cli(home: Path, *arguments: str, text: str | None = None, seconds: float = 30, **variables: str) -> Result:
    """Run one command line to its end. Without `text`, standard input is empty."""
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments],
        env=environment(home, **variables),
        input=text or "",
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def server_variables(url: str) -> dict[str, str]:
    return {"CLEARML_API_HOST": url, "CLEARML_API_ACCESS_KEY": "KEY", "CLEARML_API_SECRET_KEY": "the-secret"}


def stub_server(
    workers: Sequence[Mapping[str, object]] = (), queues: Sequence[str] = ("default",), secret: str = "the-secret"
) -> Answer:
    """The few answers that a daemon and the other commands need; every queue is empty."""
    import base64

    known = [{"id": f"{number:032x}", "name": name, "tags": []} for number, name in enumerate(queues, start=1)]
    accepted = "Basic " + base64.b64encode(f"KEY:{secret}".encode()).decode()

    def answer(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path == "/auth.login" and headers.get("Authorization") != accepted:
            return envelope(code=401, subcode=20, message="Unauthorized (invalid credentials)")
        answers: dict[str, object] = {
            "/auth.login": {"token": TOKEN},
            "/queues.get_default": {"id": known[0]["id"], "name": known[0]["name"]},
            "/queues.get_all": {"queues": known},
            "/queues.get_by_id": {"queue": {**known[0], "entries": []}},
            "/workers.get_all": {"workers": list(workers)},
        }
        return envelope(answers.get(path, {}))

    return answer
