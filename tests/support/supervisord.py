"""A supervisord of our own with real agents, and `supervisor-gen --format supervisord` on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.agent import wait_for
from support.apiserver import ServerProcess

BIN = Path(sys.executable).parent
GPUS = {"version": 1, "gpus": []}
#: A task that ends when there is a file at PATH, which is to be replaced by its repr.
WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists(PATH):
    time.sleep(0.05)
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A supervisord, what it supervises, and the server that the agents report to."""

    root: Path
    server: ServerProcess

    def declare(self, *entries: str) -> None:
        defaults = f'defaults {{ create_queue: true, config_file: "{self.server.conf_path}" }}\n'
        (self.root / "topology.conf").write_text(f"{defaults}agents: [\n{chr(10).join(entries)}\n]\n")

    def command(self, *words: str) -> list[str]:
        return [
            *(str(BIN / "supervisor-gen"), *words, "--format", "supervisord", "--root", str(self.root)),
            *("--topology", str(self.root / "topology.conf"), "--inventory", str(self.root / "inventory.json")),
            *("--host", "box", "--state-dir", str(self.root / "state"), "--log-dir", str(self.root / "log")),
        ]

    def apply(self, *words: str) -> dict[str, Any]:
        command = self.command("apply", "--json", "--supervisor-config", str(self.root / "supervisord.conf"), *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def generator(self, command: str, *words: str, code: int = 0) -> dict[str, Any]:
        """What `drain`, `resume` or `status` prints."""
        line = [
            *(str(BIN / "supervisor-gen"), command, "--json", "--format", "supervisord", "--root", str(self.root)),
            *("--state-dir", str(self.root / "state"), "--supervisor-config", str(self.root / "supervisord.conf")),
        ]
        done = subprocess.run([*line, *words], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def supervisorctl(self, *words: str) -> str:
        command = [str(BIN / "supervisorctl"), "-c", str(self.root / "supervisord.conf"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def pids(self) -> dict[str, str]:
        lines = self.supervisorctl("status").splitlines()
        running = [line.replace(",", "").split() for line in lines if " RUNNING " in line]
        return {words[0]: words[words.index("pid") + 1] for words in running}


def slot(name: str, *queues: str, **more: str) -> str:
    return (
        f"  {{ name: {name}, gpus: 0, queues: {json.dumps(queues)} {''.join(f', {k}: {v}' for k, v in more.items())} }}"
    )


@contextmanager
def supervised(tmp_path: Path) -> Iterator[Site]:
    """A supervisord below `tmp_path` and a server, ended with everything that they run."""
    root = tmp_path / "r"  # a socket's path is short
    (root / "etc/supervisor/conf.d").mkdir(parents=True)
    (root / "inventory.json").write_text(json.dumps(GPUS))
    (root / "supervisord.conf").write_text(
        f"[unix_http_server]\nfile={root}/s\n[supervisorctl]\nserverurl=unix://{root}/s\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisord]\nnodaemon=true\nlogfile={root}/supervisord.log\npidfile={root}/pid\n"
        "[include]\nfiles=etc/supervisor/conf.d/*.conf\n"
    )
    with ServerProcess(tmp_path / "server") as server, (root / "out").open("wb") as out:
        command = [str(BIN / "supervisord"), "-n", "-c", str(root / "supervisord.conf")]
        supervisord = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HOME": str(tmp_path)})
        try:
            wait_for((root / "s").exists)
            yield Site(root, server)
        finally:
            for pid in Site(root, server).pids().values():
                os.kill(int(pid), signal.SIGINT)  # ends tasks, too
            wait_for(lambda: not Site(root, server).pids())
            supervisord.send_signal(signal.SIGTERM)
            supervisord.wait(30)
