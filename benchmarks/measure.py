"""Reading what a process costs, and running a command for its wall time and peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")

#: A child's peak includes its parent's size at the moment of the fork, so the parent has to be a small one.
_LAUNCHER = """\
import os, sys, time
null = os.open(os.devnull, os.O_RDWR)
started = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_DUP2, null, n) for n in (0, 1, 2)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - started, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def wall_and_peak(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds and peak resident MB of one command that must succeed."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, env=dict(environment), check=True, capture_output=True, text=True)
    seconds, kilobytes, code = done.stdout.split()
    if code != "0":
        raise RuntimeError(f"{' '.join(command)} ended with {code}")
    return float(seconds), int(kilobytes) / 1024


def pss_mb(pids: Sequence[int]) -> float:
    """Proportional set size of some processes together, in MB."""
    return sum(_pss_kb(pid) for pid in pids) / 1024


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no Pss of {pid}")


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that some processes have used so far."""
    return sum(_cpu_ticks(pid) for pid in pids) / _TICKS


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line), "unknown")
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    return {
        "processor": f"{os.cpu_count()} cores, {model}",
        "memory": f"{memory_kb / 1024**2:.0f} GiB",
        "system": f"{release.get('PRETTY_NAME', '').strip(chr(34))}, Linux {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }
