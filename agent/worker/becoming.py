"""How a process becomes the daemon: what the daemon needs is written to a file for its user's eyes, then exec."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agent.files import write_json
from agent.models import WorkerSetup
from agent.worker.wishes import keep_waiting


def become_daemon(folder: Path, setup: WorkerSetup, environment: Mapping[str, str]) -> None:
    """Write the set-up file and exec the daemon, which removes it after reading. Does not return."""
    keep_waiting()
    file = folder / f"setup.{os.getpid()}.json"
    if setup.succession is not None:
        os.set_inheritable(setup.succession.descriptor, True)
    write_json(file, setup.to_json())
    sys.stdout.flush()
    sys.stderr.flush()
    command = worker_command(file)
    os.execve(command[0], command, dict(environment))  # noqa: S606 (becoming the daemon is the purpose)


def worker_command(setup_file: Path) -> list[str]:
    """The daemon's command line. `-P`: a folder `agent` where the agent was started is none of ours."""
    return [sys.executable, "-P", "-OO", "-m", "agent.worker", str(setup_file)]
