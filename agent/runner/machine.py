"""What this machine is doing, in the keys and units of ClearML's `machine_stats`.

Rates are differences between two readings of the kernel's running totals, so an idle agent costs one reading per
report instead of two a second.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil

from agent.models import Json

MIB = 1024.0 * 1024.0


class GpuStats(Protocol):
    """Readings of the GPUs an agent may use; empty where there are none."""

    def sample(self) -> Json: ...

    def close(self) -> None:
        """Let go of the driver."""


class OneAtATime:
    """The same readings for several readers in threads of their own: a driver is asked by one at a time."""

    def __init__(self, gpus: GpuStats) -> None:
        self._gpus = gpus
        self._lock = threading.Lock()

    def sample(self) -> Json:
        with self._lock:
            return self._gpus.sample()

    def close(self) -> None:
        with self._lock:
            self._gpus.close()


class MachineSampler:
    """Reads CPU, memory, disk, network and GPUs; rates cover the time since the sampler's previous reading.

    `sample()` returns percent, MiB and MiB/s rounded to 3 decimals; what the host does not expose is left out.
    """

    def __init__(
        self, *, disk_path: str = "~", gpus: GpuStats | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._disk_path = str(Path(disk_path).expanduser())
        self._gpus = gpus
        self._clock = clock
        self._previous: dict[str, float] = {}
        self._previous_at = 0.0
        self._cpu = _cpu_times()
        self._rates()

    def sample(self) -> Json:
        stats: Json = {"cpu_usage": [self._cpu_percent()]}
        memory = psutil.virtual_memory()
        stats["memory_used"] = round((memory.total - memory.available) / MIB, 3)
        stats["memory_free"] = round(memory.available / MIB, 3)
        with contextlib.suppress(OSError):
            stats["disk_free_home"] = round(100.0 - psutil.disk_usage(self._disk_path).percent, 3)
        stats |= self._rates()
        if self._gpus is not None:
            stats |= self._gpus.sample()
        return stats

    def _cpu_percent(self) -> float:
        before, self._cpu = self._cpu, _cpu_times()
        total = self._cpu[0] - before[0]
        return round(100.0 * (self._cpu[1] - before[1]) / total, 3) if total > 0 else 0.0

    def _rates(self) -> Json:
        now = self._clock()
        totals = _totals()
        elapsed = now - self._previous_at
        rates = {
            name: round(max(0.0, total - self._previous[name]) / MIB / elapsed, 3)
            for name, total in totals.items()
            if name in self._previous and elapsed > 0
        }
        self._previous, self._previous_at = totals, now
        return rates


def _cpu_times() -> tuple[float, float]:
    """(all, busy) seconds of all processors since boot."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # guest time is contained in user time (proc(5)); counting it again would make a busy hypervisor look idle
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total, total - idle


def _totals() -> dict[str, float]:
    totals: dict[str, float] = {}
    network = psutil.net_io_counters()
    if network is not None:
        totals["network_tx"], totals["network_rx"] = float(network.bytes_sent), float(network.bytes_recv)
    try:
        disk = psutil.disk_io_counters()
    except (OSError, RuntimeError, NotImplementedError):
        disk = None
    if disk is not None:
        totals["disk_read"], totals["disk_write"] = float(disk.read_bytes), float(disk.write_bytes)
    return totals
