"""A small real git repository, served over HTTP on the loopback interface by git's own CGI program.

Two commits and a change that was never committed: what a task records when it is made from a working copy.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from demo.state import Place

REQUIREMENTS = "humanize>=4.9\n"
STEPS = 240

FIRST_TRAIN = """\
import time

print("begin", repr(time.time()), flush=True)
"""

SECOND_TRAIN = f"""\
import time

import humanize
from model import Model

print("begin", repr(time.time()), flush=True)
model = Model(source="the second commit")
for step in range(1, {STEPS} + 1):
    loss = model.step()
    print(f"step {{step:04d}} of {STEPS}, loss {{loss:.4f}}", flush=True)
    time.sleep(0.004)
print("trained", humanize.intcomma(1234567), "parameters from", model.source)
print("end")
"""

MODEL = """\
class Model:
    def __init__(self, source):
        self.source = source
        self.loss = 1.0

    def step(self):
        self.loss *= 0.98
        return self.loss
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What a task says about where its code comes from."""

    url: str
    branch: str
    commit: str
    diff: str


@contextmanager
def served_repository(place: Place) -> Iterator[Repository]:
    """Make the repository, serve it for as long as the context lasts."""
    root = place.folder("repositories")
    commit, diff = _make(root / "model.git", place.folder("working-copy"), place.environment)
    with _serving(root, place.environment) as address:
        yield Repository(url=f"{address}/model.git", branch="main", commit=commit, diff=diff)


def _make(bare: Path, work: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    settled = _without_personal_settings(environment)

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=work, env=settled, check=True, capture_output=True, text=True)
        return done.stdout

    if not (bare / "HEAD").exists():
        git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        git("init", "--quiet", "--initial-branch=main")
        (work / "train.py").write_text(FIRST_TRAIN)
        git("add", "--all")
        git("commit", "--quiet", "--message", "A script that says hello")
        (work / "train.py").write_text(SECOND_TRAIN)
        (work / "model.py").write_text(MODEL)
        git("add", "--all")
        git("commit", "--quiet", "--message", "Train a model")
        git("push", "--quiet", str(bare), "main")
        (work / "train.py").write_text(SECOND_TRAIN.replace("the second commit", "a change that was never committed"))
    return git("rev-parse", "HEAD").strip(), git("diff")


def _without_personal_settings(environment: Mapping[str, str]) -> Mapping[str, str]:
    author = {"GIT_AUTHOR_NAME": "Demo", "GIT_AUTHOR_EMAIL": "demo@localhost"}
    committer = {"GIT_COMMITTER_NAME": "Demo", "GIT_COMMITTER_EMAIL": "demo@localhost"}
    return {**environment, **author, **committer, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


@contextmanager
def _serving(root: Path, environment: Mapping[str, str]) -> Iterator[str]:
    class Handler(_GitHandler):
        project_root = root
        child_environment = _without_personal_settings(environment)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _GitHandler(http.server.BaseHTTPRequestHandler):
    """Hands each request to `git http-backend` and its answer back (CGI, RFC 3875)."""

    project_root: Path
    child_environment: Mapping[str, str]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        address = urlsplit(self.path)
        variables = {
            "GIT_PROJECT_ROOT": str(self.project_root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": address.path,
            "QUERY_STRING": address.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": self.client_address[0],
        }
        environment = {**self.child_environment, **variables}
        command = ["git", "http-backend"]
        done = subprocess.run(command, input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line on the terminal."""
