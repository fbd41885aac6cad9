"""The device nodes that open a MIG instance, as the driver's files below /proc tell them.

Besides /dev/nvidiaN a process needs the capability `access` of the GPU instance and that of the compute instance, each
a node /dev/nvidia-caps/nvidia-capM of its own (NVIDIA's MIG user guide, "Device Nodes and Capabilities"). The driver
says M in a file per instance, and for all instances that could exist in one table. Both count GPUs by minor number.
"""

from __future__ import annotations

import os
from functools import cached_property

PROC = "/proc"
NODE = "/dev/nvidia-caps/nvidia-cap"


class Capabilities:
    """The capabilities of this host; what has been read once is not read again, so make one per look."""

    def __init__(self, proc: str = PROC) -> None:
        self._driver = os.path.join(proc, "driver")

    def nodes(self, minor: int, gi: int, ci: int) -> tuple[str, ...]:
        """The nodes of GPU and compute instance; none where the driver does not name both, since one opens nothing."""
        found = (
            self._minor(minor, f"gi{gi}/access"),
            self._minor(minor, f"gi{gi}/ci{ci}/access"),
        )
        return tuple(f"{NODE}{number}" for number in found) if all(found) else ()

    def _minor(self, gpu: int, capability: str) -> str:
        """The minor number of a capability node, or ""."""
        own = os.path.join(self._driver, "nvidia", "capabilities", f"gpu{gpu}", "mig", capability)
        for line in _lines(own):
            name, _, value = line.partition(":")
            if name == "DeviceFileMinor" and value.strip().isdigit():
                return value.strip()
        return self._table.get(f"gpu{gpu}/{capability}", "")

    @cached_property
    def _table(self) -> dict[str, str]:
        """Lines like `gpu0/gi1/ci0/access 13`, for every instance that could be made."""
        table = os.path.join(self._driver, "nvidia-caps", "mig-minors")
        return {name: value for name, _, value in (line.partition(" ") for line in _lines(table)) if value.isdigit()}


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
