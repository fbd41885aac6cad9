"""GPUs as values. An inventory has three answers, and the third is not the second.

`NoGpus`: there is nothing here. `Unknown`: there may be, but the driver is not loaded (yet) or does not answer; who
removes or renames things because of an inventory has to leave them alone then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Link(StrEnum):
    """How two GPUs reach each other, closest first; the PCIe words are those of `nvidia-smi topo -m` written out."""

    NVLINK = "nvlink"
    BOARD = "board"  # two GPUs of one board
    SWITCH = "switch"  # PIX: one PCIe switch
    SWITCHES = "switches"  # PXB: several PCIe switches
    HOST_BRIDGE = "host_bridge"  # PHB: the PCIe host bridge
    NODE = "node"  # NODE: within a NUMA node
    SYSTEM = "system"  # SYS: across NUMA nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """A slice of a GPU in MIG mode. `index` is its number on the GPU, `gi` and `ci` the driver's instance ids.

    `nodes` are its capability nodes (/dev/nvidia-caps/nvidia-capN), which a process needs besides the GPU's own node;
    empty where the driver does not say.
    """

    index: int
    uuid: str
    profile: str
    gi: int
    ci: int
    memory_total_mib: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as NVML describes it. `minor` is the N of /dev/nvidiaN.

    `numa` is the NUMA node of the host that is closest to it, None where it is not known; `cpus` the closest CPUs as
    the kernel writes a list ("0-55,112-167"), empty where they are not known. `peers` says how each other GPU of the
    host is reached, by UUID.
    """

    index: int
    uuid: str
    name: str
    bus_id: str
    minor: int
    memory_total_mib: int
    numa: int | None = None
    mig_enabled: bool = False
    mig: tuple[MigInstance, ...] = ()
    cpus: str = ""
    peers: Mapping[str, Link] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The device node that stands for this GPU."""
        return f"/dev/nvidia{self.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LostGpu:
    """A GPU that the driver counts and cannot talk to (it "has fallen off the bus").

    `refused`: nothing is wrong with it, but this process may not use it; it is fenced off for somebody else.
    """

    index: int
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The GPUs of this host, by index, and those that are lost."""

    gpus: tuple[Gpu, ...]
    lost: tuple[LostGpu, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""

    def by_index(self, index: int) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.index == index), None)


@dataclass(frozen=True, slots=True)
class NoGpus:
    """This host has no NVIDIA GPU."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell now which GPUs this host has, and why."""

    reason: str


Inventory = Gpus | NoGpus | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one GPU or MIG instance is doing; None where the driver cannot tell."""

    usage_percent: float | None = None
    memory_used_mib: float | None = None
    memory_free_mib: float | None = None
    temperature_celsius: float | None = None


#: What is read from a lost GPU.
NOTHING_READ = Reading()
