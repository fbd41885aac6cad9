"""Agents that an operator holds: they take no task, whoever starts them. `var/lib/gpufleet/held/NAME` says so.

    {"since": "2026-05-01T10:00:00+00:00", "by": "root", "why": "new disks"}

That the file is there is the hold (`agent/worker/hold.py` looks when an agent starts); what it says is for people. It
outlives crashes and reboots; `resume` removes it, and so does an `apply` that removes the agent.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import ConfigError
from agent.files import read_json
from supervisor_gen.model import File
from supervisor_gen.state import FOLDER
from supervisor_gen.writer import write_files

HELD = f"{FOLDER}/held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Since when, by whom and why; empty where a damaged file does not say."""

    since: str = ""
    by: str = ""
    why: str = ""


def hold_now(why: str = "") -> Hold:
    """A hold by whoever runs us."""
    return Hold(since=datetime.now(UTC).isoformat(timespec="seconds"), by=_who(), why=why)


def read(root: Path) -> dict[str, Hold]:
    """The held agents, by name."""
    folder = root / HELD
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        return {name: _hold_in(folder / name) for name in names}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {(error.strerror or '').lower()}", hint="Run as root.") from error


def hold(root: Path, holds: Mapping[str, Hold]) -> None:
    """Hold these agents. The file is for the eyes of the agent, whoever that runs as."""
    if holds:
        write_files(root, {f"{HELD}/{name}": File(_text_of(value)) for name, value in holds.items()})
        for folder in (root / FOLDER, root / HELD):
            folder.chmod(0o755)


def release(root: Path, names: Iterable[str]) -> set[str]:
    """Hold these agents no longer; returns those that were held."""
    released = set()
    for name in names:
        try:
            (root / HELD / name).unlink()
            released.add(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot remove {root / HELD / name}: {(error.strerror or '').lower()}") from error
    return released


def _hold_in(file: Path) -> Hold:
    found = read_json(file) or {}
    return Hold(**{name: str(found.get(name) or "") for name in Hold.__dataclass_fields__})


def _text_of(value: Hold) -> str:
    return json.dumps(asdict(value)) + "\n"


def _who() -> str:
    """The person behind sudo, if there is one."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
