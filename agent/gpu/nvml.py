"""What NVIDIA's management library says. The only module that imports the binding, and only where there is a library.

`pynvml` takes 3 MB of memory, which an idle agent on a host without GPUs is to do without; so `library_is_present`
asks the dynamic loader first. NVML calls can be slow (a GPU without persistence mode is woken up): call from a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from agent.gpu.model import Gpu, Gpus, Inventory, LostGpu, MigInstance, NoGpus, Reading, Unknown

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
PCI_DEVICES = "/sys/bus/pci/devices"
NVIDIA_VENDOR = "0x10de"
#: PCI classes of GPUs: VGA controllers and 3D controllers. The audio part of a GPU has the same vendor.
DISPLAY_CLASSES = ("0x0300", "0x0302")
MIB = 1024 * 1024


class NvmlFailed(Exception):
    """The library as a whole does not answer; the message is NVML's."""


class GpuLost(Exception):
    """One GPU does not answer; the message is NVML's."""


def read_inventory() -> Inventory:
    """The GPUs of this host, in one of the three answers."""
    if not library_is_present():
        if nvidia_device_is_present():
            return Unknown(f"this host has an NVIDIA device, but {LIBRARY} cannot be loaded")
        return NoGpus()
    try:
        with Nvml() as nvml:
            found = nvml.inventory()
    except NvmlFailed as error:
        return Unknown(str(error))
    return found if found.gpus or found.lost else NoGpus()


def library_is_present() -> bool:
    """Whether the dynamic loader finds NVML."""
    import ctypes

    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


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


class Nvml:
    """An initialised library; a context manager. Raises NvmlFailed when it cannot be initialised."""

    def __init__(self) -> None:
        import pynvml

        self._lib: ModuleType = pynvml
        self._whole(pynvml.nvmlInit)

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with suppress(self._lib.NVMLError):  # a driver that went away has nothing left to shut down
            self._lib.nvmlShutdown()

    def inventory(self) -> Gpus:
        """All GPUs by index; one that fails is among the lost and costs the others nothing."""
        lib = self._lib
        gpus, lost = [], []
        for index in range(self._whole(lib.nvmlDeviceGetCount)):
            try:
                gpus.append(self._gpu(index))
            except GpuLost as error:
                lost.append(LostGpu(index=index, reason=str(error)))
        return Gpus(
            gpus=tuple(gpus),
            lost=tuple(lost),
            driver_version=_text(self._whole(lib.nvmlSystemGetDriverVersion)),
            cuda_version=_cuda_version(self._or(0, lib.nvmlSystemGetCudaDriverVersion)),
        )

    def reading(self, uuid: str) -> Reading:
        """What the GPU or MIG instance with this UUID is doing. Raises GpuLost."""
        lib = self._lib
        handle = self._one(lib.nvmlDeviceGetHandleByUUID, uuid)
        memory = self._memory(handle)
        parent = handle
        if uuid.startswith("MIG-"):  # an instance has no sensor of its own
            parent = self._or(handle, lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
        utilization = self._or(None, lib.nvmlDeviceGetUtilizationRates, handle)
        temperature = self._or(None, lib.nvmlDeviceGetTemperature, parent, lib.NVML_TEMPERATURE_GPU)
        return Reading(
            usage_percent=None if utilization is None else float(utilization.gpu),
            memory_used_mib=memory.used / MIB,
            memory_free_mib=memory.free / MIB,
            temperature_celsius=None if temperature is None else float(temperature),
        )

    def _gpu(self, index: int) -> Gpu:
        lib = self._lib
        handle = self._one(lib.nvmlDeviceGetHandleByIndex, index)
        mig_mode, _ = self._or((0, 0), lib.nvmlDeviceGetMigMode, handle)
        numa = self._or(None, lib.nvmlDeviceGetNumaNodeId, handle)
        return Gpu(
            index=index,
            uuid=_text(self._one(lib.nvmlDeviceGetUUID, handle)),
            name=_text(self._one(lib.nvmlDeviceGetName, handle)),
            bus_id=_text(self._one(lib.nvmlDeviceGetPciInfo, handle).busId),
            minor=self._or(index, lib.nvmlDeviceGetMinorNumber, handle),
            memory_total_mib=self._memory(handle).total // MIB,
            numa=numa,
            mig_enabled=mig_mode == 1,
            mig=self._instances(handle) if mig_mode == 1 else (),
        )

    def _instances(self, gpu: Any) -> tuple[MigInstance, ...]:
        """The MIG devices of a GPU. Their numbers have holes where an instance was destroyed."""
        lib = self._lib
        found = []
        for index in range(self._or(0, lib.nvmlDeviceGetMaxMigDeviceCount, gpu)):
            handle = self._or(None, lib.nvmlDeviceGetMigDeviceHandleByIndex, gpu, index)
            if handle is None:
                continue
            found.append(
                MigInstance(
                    index=index,
                    uuid=_text(self._one(lib.nvmlDeviceGetUUID, handle)),
                    profile=_profile(_text(self._or("", lib.nvmlDeviceGetName, handle))),
                    gi=self._one(lib.nvmlDeviceGetGpuInstanceId, handle),
                    ci=self._one(lib.nvmlDeviceGetComputeInstanceId, handle),
                    memory_total_mib=self._memory(handle).total // MIB,
                )
            )
        return tuple(found)

    def _memory(self, handle: Any) -> Any:
        """Version 2 tells what the driver reserves from what is used; old drivers have only version 1."""
        lib = self._lib
        memory = self._or(None, lib.nvmlDeviceGetMemoryInfo, handle, lib.nvmlMemory_v2)
        return self._one(lib.nvmlDeviceGetMemoryInfo, handle) if memory is None else memory

    def _whole(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call about the library; its failure is the library's."""
        try:
            return call(*arguments)
        except self._lib.NVMLError as error:
            raise NvmlFailed(f"NVML: {error}") from error

    def _one(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call about one GPU; its failure is that GPU's, unless the driver itself is gone."""
        lib = self._lib
        try:
            return call(*arguments)
        except (lib.NVMLError_Uninitialized, lib.NVMLError_DriverNotLoaded) as error:
            raise NvmlFailed(f"NVML: {error}") from error
        except lib.NVMLError as error:
            raise GpuLost(f"NVML: {error}") from error

    def _or(self, default: T, call: Callable[..., T], *arguments: Any) -> T:
        """A call that not every driver or device can answer."""
        lib = self._lib
        try:
            return call(*arguments)
        except (lib.NVMLError_Uninitialized, lib.NVMLError_DriverNotLoaded) as error:
            raise NvmlFailed(f"NVML: {error}") from error
        except lib.NVMLError as error:
            if isinstance(error, lib.NVMLError_GpuIsLost):
                raise GpuLost(f"NVML: {error}") from error
            return default


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _cuda_version(number: int) -> str:
    """12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _profile(name: str) -> str:
    """`NVIDIA A100-SXM4-40GB MIG 1g.5gb` ends in the profile."""
    return name.rpartition("MIG ")[2] if "MIG " in name else name


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
