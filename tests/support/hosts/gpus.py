"""GPUs for a host: a stand-in for NVIDIA's library that reads a description, and device nodes without a driver.

Opening a node tells exactly what the host's device policy says: EPERM where it denies, ENXIO (there is no driver) where
it allows. Nodes and the description come back after a reboot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.fake_nvml import LIBRARY, library_folder
from support.hosts.host import Host

DESCRIPTION = "/etc/fake-nvml.conf"  # where the stand-in looks when no variable tells it another place
NODES = "/etc/tmpfiles.d/fake-nvidia.conf"
MIG_MINORS = "/etc/fake-nvidia/nvidia-caps/mig-minors"
MOUNT = "/etc/systemd/system/proc-driver.mount"
FSTAB = "/etc/fstab"
FSTAB_LINE = "/etc/fake-nvidia /proc/driver none bind 0 0\n"  # systemd heeds no line for a place below /proc

# NVIDIA's own number; the other two are given out when the driver is loaded, these are ones that nobody has here.
GPU_MAJOR, UVM_MAJOR, CAPS_MAJOR = 195, 508, 507
# As the driver numbers them: 15 GPU instances of a GPU, with 8 compute instances each.
FIRST_MIG_MINOR, GPU_INSTANCES, COMPUTE_INSTANCES = 3, 15, 8

#: /proc/driver is a place that the kernel made and nobody can write to: a folder of the disk is laid over it.
MOUNT_UNIT = """\
[Unit]
DefaultDependencies=no
Before=local-fs.target

[Mount]
What=/etc/fake-nvidia
Where=/proc/driver
Type=none
Options=bind

[Install]
WantedBy=local-fs.target
"""


def install_gpus(host: Host, description: Path | str) -> None:
    """Give a running host the GPUs of a description (a file of support.fake_nvml.CONFIGS, or text in that format)."""
    host.push(library_folder() / LIBRARY, f"/usr/local/lib/{LIBRARY}")
    host.run("ldconfig")
    set_gpus(host, description)
    if host.init == "plain":
        host.write(FSTAB, FSTAB_LINE)
        host.run("mount", "-a")
    else:
        host.write(MOUNT, MOUNT_UNIT)
        host.systemctl("daemon-reload")
        host.systemctl("enable", "--quiet", "--now", "proc-driver.mount")


def set_gpus(host: Host, description: Path | str) -> None:
    """Other GPUs from now on, seen by processes that run already too. Nodes that are no longer there stay until a
    reboot, as the driver's do."""
    text = description.read_text() if isinstance(description, Path) else description
    gpus = dict(_gpus_of(text))
    host.write(MIG_MINORS, "".join(f"{name} {minor}\n" for name, minor in _mig_minors(gpus)))
    host.write(NODES, "".join(f"{line}\n" for line in _nodes(gpus)))
    host.run("systemd-tmpfiles", "--create", "--boot", NODES)
    host.write(DESCRIPTION, text)


def _gpus_of(text: str) -> Iterator[tuple[int, bool]]:
    """The minor number of each GPU and whether it is in MIG mode; later sections override earlier ones."""
    settings: dict[int, dict[str, str]] = {}
    section: list[int] = []
    for line in text.splitlines():
        if line.startswith("["):
            found = re.match(r"\[gpu (\d+)(?:-(\d+))?\]", line)
            section = list(range(int(found[1]), int(found[2] or found[1]) + 1)) if found else []
        name, _, value = (part.strip() for part in line.partition("="))
        for index in section:
            settings.setdefault(index, {})[name] = value
    for index, gpu in settings.items():
        yield int(gpu.get("minor", index)), gpu.get("mig", "0") == "1"


def _nodes(gpus: dict[int, bool]) -> Iterator[str]:
    """Lines of tmpfiles.d: /dev is made anew at every boot."""
    if not gpus:
        return
    yield f"c! /dev/nvidiactl 0666 root root - {GPU_MAJOR}:255"
    yield f"c! /dev/nvidia-uvm 0666 root root - {UVM_MAJOR}:0"
    yield f"c! /dev/nvidia-uvm-tools 0666 root root - {UVM_MAJOR}:1"
    yield from (f"c! /dev/nvidia{minor} 0666 root root - {GPU_MAJOR}:{minor}" for minor in sorted(gpus))
    yield "d /dev/nvidia-caps 0755 root root -"
    for _, minor in _mig_minors(gpus):
        yield f"c! /dev/nvidia-caps/nvidia-cap{minor} 0444 root root - {CAPS_MAJOR}:{minor}"


def _mig_minors(gpus: dict[int, bool]) -> Iterator[tuple[str, int]]:
    """What the driver lists in /proc/driver/nvidia-caps/mig-minors, of GPUs in MIG mode only to keep it short."""
    yield from (("config", 1), ("monitor", 2))
    for gpu in sorted(gpu for gpu, mig in gpus.items() if mig):
        for instance in range(GPU_INSTANCES):
            access = FIRST_MIG_MINOR + (gpu * GPU_INSTANCES + instance) * (COMPUTE_INSTANCES + 1)
            yield f"gpu{gpu}/gi{instance}/access", access
            for compute in range(COMPUTE_INSTANCES):
                yield f"gpu{gpu}/gi{instance}/ci{compute}/access", access + 1 + compute
