"""NVIDIA's management library, opened. The only module that imports the binding, and only where there is a library.

`pynvml` takes 3 MB of memory, which an idle agent on a host without GPUs is to do without; so `library_is_present`
asks the dynamic loader first. NVML calls can be slow (a GPU without persistence mode is woken up): call from a thread.

`Nvml` says what a failed call means, and what one GPU is doing. Which GPUs there are (`inventory`), how they reach
each other (`peers`) and how they are (`condition`) is asked through an opened one, with the binding as its `lib`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from agent.gpu.model import Reading

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
MPS_SERVER = "nvidia-cuda-mps-server"
MIB = 1024 * 1024


class NvmlFailed(Exception):
    """The library as a whole does not answer; the message is NVML's."""


class GpuLost(Exception):
    """One GPU does not answer; the message is NVML's."""


class GpuRefused(GpuLost):
    """One GPU is not for this process, which is fenced off from it."""


def library_is_present() -> bool:
    """Whether the dynamic loader finds NVML."""
    import ctypes

    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class Nvml:
    """An initialised library; a context manager. Raises NvmlFailed when it cannot be initialised.

    `lib` is the binding. Its functions are called through `whole`, `one`, `one_or` or `or_nothing`, which differ in
    what a failure means.
    """

    def __init__(self) -> None:
        import pynvml

        self.lib: ModuleType = pynvml
        self.whole(pynvml.nvmlInit)

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with suppress(self.lib.NVMLError):  # a driver that went away has nothing left to shut down
            self.lib.nvmlShutdown()

    def reading(self, uuid: str) -> Reading:
        """What the GPU or MIG instance with this UUID is doing. Raises GpuLost."""
        lib = self.lib
        handle = self.one(lib.nvmlDeviceGetHandleByUUID, uuid)
        memory = self.memory(handle)
        parent = handle
        if uuid.startswith("MIG-"):  # an instance has no sensor of its own
            parent = self.one_or(handle, lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
        utilization = self.one_or(None, lib.nvmlDeviceGetUtilizationRates, handle)
        temperature = self.one_or(None, lib.nvmlDeviceGetTemperature, parent, lib.NVML_TEMPERATURE_GPU)
        return Reading(
            usage_percent=None if utilization is None else float(utilization.gpu),
            memory_used_mib=memory.used / MIB,
            memory_free_mib=memory.free / MIB,
            temperature_celsius=None if temperature is None else float(temperature),
        )

    def computing(self, uuid: str) -> tuple[tuple[int, str], ...]:
        """(pid, name) of the processes that compute on a GPU or MIG instance. Raises GpuLost.

        The server of MPS is not one of them: it stands there for its clients, and without one it does nothing.
        """
        lib = self.lib
        handle = self.one(lib.nvmlDeviceGetHandleByUUID, uuid)
        running: list[Any] = self.one_or([], lib.nvmlDeviceGetComputeRunningProcesses, handle)
        pids = [int(process.pid) for process in running]
        named = [(pid, text_of(self.one_or("", lib.nvmlSystemGetProcessName, pid)).rpartition("/")[2]) for pid in pids]
        return tuple((pid, name) for pid, name in named if name != MPS_SERVER)

    def memory(self, handle: Any) -> Any:
        """Version 2 tells what the driver reserves from what is used; old drivers have only version 1."""
        lib = self.lib
        memory = self.one_or(None, lib.nvmlDeviceGetMemoryInfo, handle, lib.nvmlMemory_v2)
        return self.one(lib.nvmlDeviceGetMemoryInfo, handle) if memory is None else memory

    def whole(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call about the library; its failure is the library's."""
        try:
            return call(*arguments)
        except self.lib.NVMLError as error:
            raise NvmlFailed(f"NVML: {error}") from error

    def one(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call about one GPU; its failure is that GPU's, unless the driver itself is gone."""
        lib = self.lib
        try:
            return call(*arguments)
        except (lib.NVMLError_Uninitialized, lib.NVMLError_DriverNotLoaded) as error:
            raise NvmlFailed(f"NVML: {error}") from error
        except lib.NVMLError_NoPermission as error:
            raise GpuRefused(f"NVML: {error}") from error
        except lib.NVMLError as error:
            raise GpuLost(f"NVML: {error}") from error

    def one_or(self, default: T, call: Callable[..., T], *arguments: Any) -> T:
        """A call that not every driver or device can answer."""
        lib = self.lib
        try:
            return call(*arguments)
        except (lib.NVMLError_Uninitialized, lib.NVMLError_DriverNotLoaded) as error:
            raise NvmlFailed(f"NVML: {error}") from error
        except lib.NVMLError as error:
            if isinstance(error, lib.NVMLError_GpuIsLost):
                raise GpuLost(f"NVML: {error}") from error
            return default

    def or_nothing(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call whose failure costs no GPU anything, even if one has been lost meanwhile; None where it fails."""
        try:
            return self.one_or(None, call, *arguments)
        except GpuLost:
            return None


def text_of(value: str | bytes) -> str:
    """Bindings differ in which of the two they return."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
