"""Facts about processes that psutil would need a heavy import for; see proc(5)."""

from __future__ import annotations


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
