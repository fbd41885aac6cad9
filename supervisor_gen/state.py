"""What `apply` remembers below `var/lib/gpufleet`: which agent has which GPUs, and the GPUs of this host.

`agents.json`     {"version": 1, "agents": {"gpu0": ["GPU-…"], …}}: names stay with their GPUs over changes of hardware
`inventory.json`  as `supervisor-gen inventory --json` prints it: what the boot-time shim plans with
`held/NAME`       agents that take no task (`holds.py`)
`lock`            flocked while an `apply` is at work, and while holds are written
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.errors import AgentError, ConfigError
from agent.files import read_json, write_json
from supervisor_gen.model import HostPlan

Names = Mapping[str, tuple[str, ...]]

FOLDER = "var/lib/gpufleet"
VERSION = 1
LOOK_SECONDS = 0.1


def inventory_file(root: Path) -> Path:
    """Where the inventory of the last `apply` is."""
    return root / FOLDER / "inventory.json"


def names_of(root: Path) -> dict[str, tuple[str, ...]]:
    """The UUIDs that each agent of this host had at the last `apply`; nothing before the first one.

    Raises ConfigError for a file that cannot be read: going on would give GPUs other names.
    """
    file = root / FOLDER / "agents.json"
    try:
        known = read_json(file)
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {(error.strerror or 'unknown').lower()}", hint="Run as root."
        ) from error
    if known is None:
        if file.exists():
            raise ConfigError(f"{file} is damaged", hint="Remove it; agents are then named anew by their GPUs.")
        return {}
    agents = known.get("agents")
    if not isinstance(agents, dict):
        raise ConfigError(f"{file}: agents is not an object", hint="Remove it; agents are then named anew.")
    return {str(name): tuple(str(uuid) for uuid in uuids) for name, uuids in agents.items()}


def save(root: Path, names: Mapping[str, tuple[str, ...]], inventory: Mapping[str, Any] | None) -> None:
    """Remember names, and the inventory unless nobody could tell it."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    value = {"version": VERSION, "agents": {name: list(uuids) for name, uuids in sorted(names.items())}}
    write_json(folder / "agents.json", value, durable=True)
    if inventory is not None:
        write_json(inventory_file(root), inventory, durable=True)


def names_in(plan: HostPlan) -> dict[str, tuple[str, ...]]:
    """The UUIDs of each agent of a plan."""
    return {agent.name: tuple(device.uuid for device in agent.devices) for agent in plan.agents}


@contextlib.contextmanager
def locked(root: Path, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Be the only one that changes this root. Raises AgentError if somebody else is at work for longer."""
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot write below {folder}: {(error.strerror or 'unknown').lower()}", hint="Run as root."
        ) from error
    deadline = time.monotonic() + patience_seconds
    while not (is_ours := _lock(descriptor)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if not is_ours:
        os.close(descriptor)
        raise AgentError(
            "another supervisor-gen apply is at work on this host",
            hint=f"It may be waiting for tasks to end; `fuser {folder / 'lock'}` names it.",
        )
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
