"""The agents that live on this host, from the records that `agent.worker.identity` keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config.schema import Settings
from agent.errors import ConfigError
from agent.files import read_json
from agent.process.procfs import start_ticks_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAgent:
    """A daemon of this host and state directory. Pid and start time name the process; a pid alone may be reused.

    `hours` are its working hours as it was given them: {"uptime", "downtime", "timezone"}; `control` is its socket.
    """

    worker_id: str
    pid: int
    start_ticks: int
    is_ready: bool
    hours: Mapping[str, Any] = field(default_factory=dict)
    control: Path = Path()

    @property
    def is_alive(self) -> bool:
        return start_ticks_of(self.pid) == self.start_ticks and not _is_zombie(self.pid)


def state_folder(settings: Settings, name: str) -> Path:
    """A folder of the state directory, made if need be, for our user only. Raises ConfigError where that fails."""
    folder = Path(settings.agent.state_dir, name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = "no permission to write there"
    except OSError as error:
        reason = error.strerror or "unknown"
    raise ConfigError(f"cannot use {folder}: {reason}", hint="agent.state_dir (STATE_DIRECTORY) says where it is.")


def live_agents(settings: Settings) -> tuple[LiveAgent, ...]:
    """The agents that live, by worker id. A record of a process that is gone is not one."""
    found = []
    for file in Path(settings.agent.state_dir, "workers").glob("*.lock"):
        record = read_json(file)
        if record and all(isinstance(record.get(name), int) for name in ("pid", "start_ticks")):
            agent = LiveAgent(
                worker_id=str(record.get("worker_id") or ""),
                pid=record["pid"],
                start_ticks=record["start_ticks"],
                is_ready=bool(record.get("ready")),
                hours=record.get("hours") or {},
                control=file.with_suffix(".sock"),
            )
            if agent.is_alive:
                found.append(agent)
    return tuple(sorted(found, key=lambda agent: agent.worker_id))


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits to be noticed, for which the pid 1 of a container may take long."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(b")") + 2 :].startswith((b"Z", b"X"))
