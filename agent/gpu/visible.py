"""Which GPUs the tasks of an agent may see: what `--gpus` says, as environment variables and as part of a worker id.

    all       every GPU                       0,1       GPUs by index          0-3    the same, as a range
    none      no GPU (also --cpu-only)        0:1 0.1   MIG instance 1 of GPU 0
    GPU-…     a GPU by UUID                   MIG-…     a MIG instance by UUID

Without `--gpus` the variables that this process was started with hold, and nothing is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.errors import GpuMissing, GpuSpecError
from agent.gpu.model import Gpus, Inventory, NoGpus, Unknown

NVIDIA = "NVIDIA_VISIBLE_DEVICES"
CUDA = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
#: In a pod the device plugin has chosen the GPUs, and `--gpus` is ignored.
KUBERNETES = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT")
NOTHING_VISIBLE = frozenset({"none", "void", "-1", "NoDevFiles"})

_INDEX = re.compile(r"^\d{1,3}$")
_RANGE = re.compile(r"^(\d{1,3})-(\d{1,3})$")
_MIG = re.compile(r"^(\d{1,3})[:.](\d{1,3})$")
_UUID = re.compile(r"^(?:GPU|MIG)-[0-9A-Za-z/-]+$")
_FORMS = "Write all, none, indexes (0,1), a range (0-3), MIG instances (0:1) or UUIDs."


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """The devices that tasks may see.

    `devices` are normalised: indexes, `gpu:instance`, UUIDs, or one of the words "all" and "none"; None: nothing was
    asked for. `inherited` is what the environment says in that case.
    """

    devices: tuple[str, ...] | None
    inherited: str = ""
    cpu_only: bool = False
    #: UUIDs of the MIG instances among `devices`, once they have been looked up: CUDA knows these by UUID only.
    uuids: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """The variables to set for a task."""
        if self.devices is None:
            return {ORDER: "PCI_BUS_ID"}
        if self.devices == ("all",):
            return {NVIDIA: "all", ORDER: "PCI_BUS_ID"}
        return {
            NVIDIA: ",".join(self.devices),
            CUDA: ",".join(self.uuids.get(device, device) for device in self.devices),
            ORDER: "PCI_BUS_ID",
        }

    def unset(self) -> tuple[str, ...]:
        """The variables that must not be there: any value of CUDA's own would narrow "all"."""
        return (CUDA,) if self.devices == ("all",) else ()

    def worker_suffix(self) -> str | None:
        """The part of the worker id that names the GPUs; None where none were named."""
        if self.cpu_only:
            return "cpu"
        devices = self.inherited if self.devices is None else ",".join(self.devices)
        if not devices or devices in NOTHING_VISIBLE:
            return None
        return "gpu" + devices.replace(":", ".")

    @property
    def has_mig(self) -> bool:
        """Whether an instance is named by numbers, so that its UUID has to be looked up."""
        return any(_MIG.match(device) for device in self.devices or ())


def parse_visibility(spec: str | None, cpu_only: bool, env: Mapping[str, str]) -> Visibility:
    """What `--gpus SPEC` or `--cpu-only` stand for. Raises GpuSpecError for a specification that cannot be read."""
    if cpu_only:
        return Visibility(devices=("none",), cpu_only=True, uuids={})
    if not spec or is_ignored(env):
        return Visibility(devices=None, inherited=env.get(NVIDIA) or env.get(CUDA) or "", uuids={})
    return Visibility(devices=tuple(_devices(spec)), uuids={})


def is_ignored(env: Mapping[str, str]) -> bool:
    """Whether `--gpus` has no effect here."""
    return any(env.get(name) for name in KUBERNETES)


def check(visibility: Visibility, inventory: Inventory) -> tuple[Visibility, str]:
    """Compare what was asked for with what is there: the visibility with MIG UUIDs filled in, and a warning or "".

    Raises GpuSpecError for a device that this host certainly does not have. On a host without NVIDIA GPUs indexes are
    let through with a warning: they may be those of another vendor.
    """
    if visibility.devices is None or visibility.devices in (("all",), ("none",)):
        return visibility, ""
    match inventory:
        case Gpus():
            uuids = {device: uuid for device in visibility.devices if (uuid := _look_up(device, inventory))}
            return Visibility(devices=visibility.devices, uuids=uuids), ""
        case NoGpus():
            reason = "this host has no NVIDIA GPU"
        case Unknown():
            reason = inventory.reason
    if visibility.has_mig:
        raise GpuSpecError(f"cannot look up the MIG instances {','.join(visibility.devices)}: {reason}")
    return visibility, f"GPUs {','.join(visibility.devices)} were not checked: {reason}"


def missing(devices: Sequence[str], inventory: Gpus) -> dict[str, str]:
    """Those of the devices that were here and may come back, and why each is missing."""
    found: dict[str, str] = {}
    for device in devices:
        try:
            _look_up(device, inventory)
        except GpuMissing as error:
            found[device] = error.message.removeprefix("--gpus: ")
    return found


def _devices(spec: str) -> list[str]:
    if spec.strip() in ("all", "none"):
        return [spec.strip()]
    devices = [device for part in spec.split(",") for device in _expanded(part.strip(), spec)]
    twice = {device for device in devices if devices.count(device) > 1}
    if twice:
        raise GpuSpecError(f"--gpus {spec}: {min(twice)} is named twice")
    whole = {device.split(":")[0] for device in devices if ":" in device} & set(devices)
    if whole:
        raise GpuSpecError(f"--gpus {spec}: GPU {min(whole)} is named whole and in part")
    return devices


def _expanded(part: str, spec: str) -> list[str]:
    if _INDEX.match(part):
        return [str(int(part))]
    if found := _MIG.match(part):
        return [f"{int(found[1])}:{int(found[2])}"]
    if _UUID.match(part):
        return [part]
    if (found := _RANGE.match(part)) and int(found[1]) <= int(found[2]):
        return [str(index) for index in range(int(found[1]), int(found[2]) + 1)]
    raise GpuSpecError(f"--gpus {spec}: cannot read {part!r}", hint=_FORMS)


def _look_up(device: str, inventory: Gpus) -> str:
    """The UUID of a MIG instance, "" for a whole GPU; raises GpuSpecError where there is no such device."""
    if _UUID.match(device):
        known = {gpu.uuid for gpu in inventory.gpus} | {part.uuid for gpu in inventory.gpus for part in gpu.mig}
        if device not in known and "/" not in device:
            raise GpuMissing(f"--gpus: this host has no {device}", hint=_present(inventory))
        return ""
    index, _, instance = device.partition(":")
    lost = next((gpu for gpu in inventory.lost if gpu.index == int(index)), None)
    if lost:
        if lost.refused:
            raise GpuSpecError(f"--gpus: GPU {index} is not for this process ({lost.reason})")
        raise GpuMissing(f"--gpus: GPU {index} does not answer ({lost.reason})")
    gpu = inventory.by_index(int(index))
    if gpu is None:
        raise GpuSpecError(f"--gpus: this host has no GPU {index}", hint=_present(inventory))
    if not instance:
        return ""
    found = next((part.uuid for part in gpu.mig if part.index == int(instance)), "")
    if not found:
        has = ", ".join(f"{index}:{part.index}" for part in gpu.mig) or "none"
        raise GpuSpecError(f"--gpus: GPU {index} has no MIG instance {instance}", hint=f"It has: {has}.")
    return found


def _present(inventory: Gpus) -> str:
    return f"It has: {', '.join(f'{gpu.index} ({gpu.uuid})' for gpu in inventory.gpus) or 'none that answers'}."
