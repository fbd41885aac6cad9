"""What the kernel knows of the GPUs of a host, driver or not, and how it writes which CPUs are meant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

PCI_DEVICES = "/sys/bus/pci/devices"
NVIDIA_VENDOR = "0x10de"
#: PCI classes of GPUs: VGA controllers and 3D controllers. The audio part of a GPU has the same vendor.
DISPLAY_CLASSES = ("0x0300", "0x0302")


def nvidia_device_is_present(devices: str = PCI_DEVICES) -> bool:
    """Whether the PCI bus has an NVIDIA GPU, driver or not."""
    try:
        names = os.listdir(devices)
    except OSError:
        return False
    return any(
        _line(os.path.join(devices, name, "vendor")) == NVIDIA_VENDOR
        and _line(os.path.join(devices, name, "class")).startswith(DISPLAY_CLASSES)
        for name in names
    )


def numa_node_of(bus_id: str, devices: str = PCI_DEVICES) -> int | None:
    """The NUMA node that the kernel knows of a PCI device; NVML writes its domain with more digits."""
    domain, _, rest = bus_id.lower().partition(":")
    try:
        node = int(_line(os.path.join(devices, f"{int(domain, 16):04x}:{rest}", "numa_node")))
    except ValueError:
        return None
    return node if node >= 0 else None


def numbers_in(words: Iterable[int]) -> list[int]:
    """The bits that are set in a mask of 64-bit words, the lowest word first."""
    mask = sum(word << 64 * position for position, word in enumerate(words))
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def cpu_list(numbers: Sequence[int]) -> str:
    """Ascending numbers as the kernel writes a list of CPUs: `0-55,112-167`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
