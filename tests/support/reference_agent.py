"""The `clearml-agent` that the world runs, in a virtual environment of its own: what we are compared with.

It is installed once into the checkout's cache and reused; a file written last says that the installation is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

VERSION = "3.0.3"
_ROOT = Path(__file__).parent.parent.parent
_INSTALL_SECONDS = 600


class ReferenceAgentUnavailable(RuntimeError):
    """It could not be installed, for example because there is no package index to be reached."""


def reference_agent(cache: Path = _ROOT / ".cache") -> Path:
    """The path of the `clearml-agent` command, installed if it is not yet."""
    home = cache / f"clearml-agent-{VERSION}"
    command, whole = home / "bin" / "clearml-agent", home / ".whole"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"clearml-agent-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            _install(home)
            whole.touch()
    return command


def agent_environment(
    config: Path, home: Path, *, interpreter: str | None = sys.executable, poll_seconds: float = 1.0
) -> dict[str, str]:
    """An environment in which it talks to our server and leaves this person's home alone.

    With an interpreter it runs tasks with that one as it is and talks to nobody else; without one it builds an
    environment for each task, as it does by default, and needs a package index.
    """
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "CLEARML_CONFIG_FILE": str(config),
        "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": str(poll_seconds),
        "CLEARML_AGENT__AGENT__DISABLE_AGENT_UPDATE_CHECK": "true",
        "NVIDIA_VISIBLE_DEVICES": "none",
    }
    if interpreter is None:
        return env
    # the first alone would still let pip replace itself in that interpreter's environment
    as_it_is = {"CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": interpreter, "CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1"}
    return env | as_it_is | loopback_only()


def loopback_only() -> dict[str, str]:
    """Variables that make `requests` refuse every address but loopback at once: the SDK asks its vendor for updates."""
    nowhere = "http://127.0.0.1:9"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return dict.fromkeys(names, nowhere) | dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")


def run(
    command: Path, *arguments: str, env: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a sub-command that ends by itself."""
    return subprocess.run(
        [str(command), *arguments],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_daemon(command: Path, queue: str, *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground on a queue, in a process group of its own; its output goes to a file."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(command), "daemon", "--queue", queue, "--foreground", "--cpu-only"],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _install(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise ReferenceAgentUnavailable("uv is not installed")
    # setuptools: this version imports pkg_resources, which the newest releases no longer have
    packages = [f"clearml-agent=={VERSION}", "setuptools<81"]
    for arguments in (
        ["venv", "--python", sys.executable, str(home)],
        ["pip", "install", "--python", str(home / "bin" / "python"), *packages],
    ):
        done = subprocess.run(
            [uv, *arguments],
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise ReferenceAgentUnavailable(done.stderr[-2000:])
