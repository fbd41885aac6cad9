"""Facts about processes that psutil would need a heavy import for; see proc(5)."""

from __future__ import annotations

import os


def start_ticks_of(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot (stat field 22); None if there is no such process.

    Pid and start time together name a process for as long as the host is up; a pid alone may be somebody else's by now.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def processes_with(name: str, value: str) -> list[int]:
    """The living processes of ours that were started with this variable in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:  # gone, or somebody else's
            continue
    return found
