"""What the GPUs an agent may use are doing, in the keys and units of ClearML's `machine_stats`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.gpu.model import NOTHING_READ, Gpus, Reading
from agent.gpu.nvml import GpuLost, Nvml, NvmlFailed, library_is_present
from agent.gpu.visible import CUDA, NOTHING_VISIBLE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One position in the lists of a report: a GPU or a MIG instance. `uuid` is empty for a GPU lost from the start."""

    label: str
    uuid: str


def sampler_for(
    environment: Mapping[str, str],
    *,
    default_utilization: float | None = 100.0,
    environ: Mapping[str, str] | None = None,
) -> GpuSampler | None:
    """A sampler for the GPUs that a task with `environment` (over `environ`) sees; None where there can be none."""
    visible = {**(os.environ if environ is None else environ), **environment}.get(CUDA)
    if visible is not None and (not visible or visible.split(",")[0] in NOTHING_VISIBLE):
        return None
    if not library_is_present():
        return None
    return GpuSampler(visible, default_utilization=default_utilization)


class GpuSampler:
    """Reads the visible GPUs; `sample()` may be called from any one thread at a time.

    The lists have one number per GPU, in order, for the sampler's whole life, since their readers know GPUs by position
    only: a lost GPU, or a sensor that cannot be read, is 0. Utilization that the driver cannot tell (MIG) is
    `default_utilization`. A GPU that is lost or returns is logged once.
    """

    def __init__(self, visible: str | None, *, default_utilization: float | None = 100.0) -> None:
        self._visible = visible
        self._default_utilization = default_utilization
        self._nvml: Nvml | None = None
        self._devices: tuple[Device, ...] | None = None
        self._lost: set[str] = set()
        self._complained = False

    def sample(self) -> dict[str, Any]:
        """The lists `gpu_usage` (%), `gpu_memory_used`, `gpu_memory_free` (MiB), `gpu_temperature` (°C), or {}."""
        try:
            readings = self._readings()
        except NvmlFailed as error:
            self._close()
            if not self._complained:
                log.warning("GPUs are not reported: %s", error, extra={"action": "gpu"})
            self._complained = True
            return {}
        self._complained = False
        return stats_of(readings, default_utilization=self._default_utilization)

    def close(self) -> None:
        """Let go of the driver."""
        self._close()

    def _readings(self) -> list[Reading]:
        if self._nvml is None:
            self._nvml = Nvml()
        if self._devices is None:
            self._devices = _devices_of(self._nvml, self._visible)
        readings = [self._reading(self._nvml, device) for device in self._devices]
        if self._lost:  # a GPU that comes back is only seen by who opens the driver again
            self._close()
        if not all(device.uuid for device in self._devices):
            self._devices = None
        return readings

    def _reading(self, nvml: Nvml, device: Device) -> Reading:
        try:
            if not device.uuid:
                raise GpuLost("did not answer when the agent started")
            reading = nvml.reading(device.uuid)
        except GpuLost as error:
            if device.label not in self._lost:
                log.error("GPU %s does not answer: %s", device.label, error, extra={"action": "gpu"})
            self._lost.add(device.label)
            return NOTHING_READ
        if device.label in self._lost:
            log.info("GPU %s answers again", device.label, extra={"action": "gpu"})
            self._lost.discard(device.label)
        return reading

    def _close(self) -> None:
        if self._nvml is not None:
            self._nvml.close()
        self._nvml = None


def _devices_of(nvml: Nvml, visible: str | None) -> tuple[Device, ...]:
    from agent.gpu.inventory import survey  # only where there is a library

    return visible_devices(survey(nvml), visible)


def visible_devices(inventory: Gpus, visible: str | None) -> tuple[Device, ...]:
    """The devices that CUDA_VISIBLE_DEVICES names, in its order; all GPUs where it is not set.

    A GPU in MIG mode stands for its instances, since CUDA programs see these. A GPU that this process may not use is
    none that its tasks could see, so it is not among them; one that is lost keeps its place.
    """
    lost = {gpu.index: Device(label=str(gpu.index), uuid="") for gpu in inventory.lost if not gpu.refused}
    whole = {gpu.index: Device(label=str(gpu.index), uuid=gpu.uuid) for gpu in inventory.gpus} | lost
    parts = {
        gpu.index: tuple(Device(label=f"{gpu.index}:{part.index}", uuid=part.uuid) for part in gpu.mig)
        for gpu in inventory.gpus
        if gpu.mig
    }
    if visible is None:
        return tuple(device for index in sorted(whole) for device in parts.get(index, (whole[index],)))
    known = [*whole.values(), *(part for of_gpu in parts.values() for part in of_gpu)]
    found: list[Device] = []
    for name in (part.strip() for part in visible.split(",")):
        if name.isdigit():
            index = int(name)
            found += parts.get(index) or ([whole[index]] if index in whole else [])
        else:
            found += [device for device in known if device.uuid and device.uuid.startswith(name)][:1]
    return tuple(found)


def stats_of(readings: Sequence[Reading], *, default_utilization: float | None) -> dict[str, Any]:
    """Readings as `machine_stats`: the pure half of the sampler."""
    if not readings:
        return {}
    stats: dict[str, Any] = {
        "gpu_usage": [_usage(reading, default_utilization) for reading in readings],
        "gpu_memory_used": [round(reading.memory_used_mib or 0.0, 3) for reading in readings],
        "gpu_memory_free": [round(reading.memory_free_mib or 0.0, 3) for reading in readings],
        "gpu_temperature": [reading.temperature_celsius or 0.0 for reading in readings],
    }
    if default_utilization is None and all(reading.usage_percent is None for reading in readings):
        del stats["gpu_usage"]
    return stats


def _usage(reading: Reading, default: float | None) -> float:
    if reading is NOTHING_READ:
        return 0.0
    return (default or 0.0) if reading.usage_percent is None else reading.usage_percent
