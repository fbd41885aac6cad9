"""Git repositories for tests, and the servers they can be fetched from: plain files, HTTP with a password, ssh."""

from __future__ import annotations

import base64
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_AS = ("-c", "user.name=Tests", "-c", "user.email=tests@localhost", "-c", "protocol.file.allow=always")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository with a work tree."""

    folder: Path

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *_AS, *arguments], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | bytes], message: str = "a change") -> str:
        """Write these files, commit everything, and answer the commit's id."""
        self.write(files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def diff(self, *arguments: str) -> str:
        """The uncommitted changes as the SDK records them, bytes kept."""
        command = ["git", *_AS, "diff", "--submodule=diff", *arguments, "HEAD"]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return done.stdout.decode()


def make_repository(folder: Path, files: Mapping[str, str | bytes] | None = None) -> Repository:
    """A repository whose branch `main` has one commit with these files."""
    folder.mkdir(parents=True)
    repository = Repository(folder=folder)
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.git("config", "receive.denyCurrentBranch", "ignore")
    repository.commit(files or {"main.py": "print('from main')\n"}, "the first commit")
    return repository


@dataclass
class GitServer:
    """`git http-backend` behind a small server; with `password` set it asks for it."""

    root: Path
    user: str = "me"
    password: str = ""
    requests: list[str] = field(default_factory=list)
    broken: bool = False
    port: int = 0

    def url(self, name: str, *, userinfo: str = "") -> str:
        return f"http://{userinfo + '@' if userinfo else ''}127.0.0.1:{self.port}/{name}"

    @contextlib.contextmanager
    def running(self) -> Iterator[GitServer]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                return

        listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        listening.daemon_threads = False
        self.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            listening.shutdown()
            listening.server_close()
            thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if request.headers.get("Transfer-Encoding") == "chunked":
            body = _chunked(request)
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if self.broken:
            request.send_error(503)
        elif self.password and request.headers.get("Authorization") != expected:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="git"')
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            self._backend(request, body)

    def _backend(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(request.path)
        environ = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "uploadpack.allowAnySHA1InWant",
            "GIT_CONFIG_VALUE_0": "true",
            "PATH_INFO": unquote(parts.path),
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environ, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        request.send_response(status)
        for name, value in headers:
            if name != "Status":
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def _chunked(request: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


@dataclass(frozen=True, kw_only=True)
class SshServer:
    """An sshd of our own on a free port of the loopback interface, with keys made for it."""

    port: int
    user: str
    key: Path
    known_hosts: Path

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    @property
    def command(self) -> str:
        """A value for GIT_SSH_COMMAND that knows this server and logs in."""
        return (
            f"ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityFile={self.key} "
            f"-o UserKnownHostsFile={self.known_hosts} -o StrictHostKeyChecking=yes"
        )


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start sshd; where it is not installed the test fails and says so."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert sshd is not None, "sshd is not on this machine: install the package openssh-server to run this test"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    authorized = folder / "authorized_keys"
    authorized.write_text((folder / "user.pub").read_text())
    authorized.chmod(0o600)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to start without it
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {authorized}\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nKbdInteractiveAuthentication no\nPrintMotd no\nUseDNS no\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, cwd="/")
    try:
        _wait_for(port, process, folder / "log")
        yield SshServer(port=port, user=getpass.getuser(), key=folder / "user", known_hosts=folder / "known_hosts")
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, f"sshd ended: {log.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not answer: {log.read_text()}")
