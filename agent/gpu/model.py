"""GPUs as values. An inventory has three answers, and the third is not the second.

`NoGpus`: there is nothing here. `Unknown`: there may be, but the driver is not loaded (yet) or does not answer; who
removes or renames things because of an inventory has to leave them alone then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """A slice of a GPU in MIG mode. `index` is its number on the GPU, `gi` and `ci` the driver's instance ids."""

    index: int
    uuid: str
    profile: str
    gi: int
    ci: int
    memory_total_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as NVML describes it. `minor` is the N of /dev/nvidiaN; `numa` is None where it is not known."""

    index: int
    uuid: str
    name: str
    bus_id: str
    minor: int
    memory_total_mib: int
    numa: int | None = None
    mig_enabled: bool = False
    mig: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LostGpu:
    """A GPU that the driver counts and cannot talk to (it "has fallen off the bus")."""

    index: int
    reason: str


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
