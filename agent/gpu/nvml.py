"""What NVIDIA's management library says. The only module that imports the binding, and only where there is a library.

`pynvml` takes 3 MB of memory, which an idle agent on a host without GPUs is to do without; so `library_is_present`
asks the dynamic loader first. NVML calls can be slow (a GPU without persistence mode is woken up): call from a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from agent.gpu.capabilities import PROC, Capabilities
from agent.gpu.health import Condition, Xid
from agent.gpu.model import Gpu, Gpus, Inventory, Link, LostGpu, MigInstance, NoGpus, Reading, Unknown

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
PCI_DEVICES = "/sys/bus/pci/devices"
NVIDIA_VENDOR = "0x10de"
MPS_SERVER = "nvidia-cuda-mps-server"
#: PCI classes of GPUs: VGA controllers and 3D controllers. The audio part of a GPU has the same vendor.
DISPLAY_CLASSES = ("0x0300", "0x0302")
MIB = 1024 * 1024
#: 64-bit words that hold the kernel's most CPUs (8192) and NUMA nodes (1024). Not as many as there are now: numbers
#: have holes where a CPU is offline, and a mask that is too short is cut off without a word.
CPU_WORDS = 8192 // 64
NODE_WORDS = 1024 // 64
#: NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, which older bindings have no name for; drivers know it since 570.
RECOVERY_ACTION = 230
#: Events that are taken in at one look; what a GPU has to say beyond is said at the next.
MOST_EVENTS = 64
#: nvmlGpuTopologyLevel_t.
LINKS = {
    0: Link.BOARD,
    10: Link.SWITCH,
    20: Link.SWITCHES,
    30: Link.HOST_BRIDGE,
    40: Link.NODE,
    50: Link.SYSTEM,
}


class NvmlFailed(Exception):
    """The library as a whole does not answer; the message is NVML's."""


class GpuLost(Exception):
    """One GPU does not answer; the message is NVML's."""


class GpuRefused(GpuLost):
    """One GPU is not for this process, which is fenced off from it."""


def read_inventory(*, with_peers: bool = False, proc: str = PROC, pci_devices: str = PCI_DEVICES) -> Inventory:
    """The GPUs of this host, in one of the three answers.

    What the GPUs are to each other is read `with_peers` only: it is several calls for every pair, and an agent, which
    looks at the GPUs it was given, does not need it. All that concerns one GPU is a few calls more.
    """
    if not library_is_present():
        if nvidia_device_is_present(pci_devices):
            return Unknown(f"this host has an NVIDIA device, but {LIBRARY} cannot be loaded")
        return NoGpus()
    try:
        with Nvml(proc=proc, pci_devices=pci_devices) as nvml:
            found = nvml.inventory(with_peers=with_peers)
    except NvmlFailed as error:
        return Unknown(str(error))
    if not found.gpus and any(gpu.refused for gpu in found.lost):
        return Unknown(f"this process may use none of {len(found.lost)} GPUs: {found.lost[0].reason}")
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

    def __init__(self, *, proc: str = PROC, pci_devices: str = PCI_DEVICES) -> None:
        import pynvml

        self._lib: ModuleType = pynvml
        self._proc = proc
        self._pci_devices = pci_devices
        self._whole(pynvml.nvmlInit)

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with suppress(self._lib.NVMLError):  # a driver that went away has nothing left to shut down
            self._lib.nvmlShutdown()

    def inventory(self, *, with_peers: bool = False) -> Gpus:
        """All GPUs by index; one that fails is among the lost and costs the others nothing."""
        lib = self._lib
        capabilities = Capabilities(self._proc)
        found: list[tuple[Gpu, Any]] = []
        lost = []
        for index in range(self._whole(lib.nvmlDeviceGetCount)):
            try:
                handle = self._one(lib.nvmlDeviceGetHandleByIndex, index)
                found.append((self._gpu(index, handle, capabilities), handle))
            except GpuLost as error:
                lost.append(LostGpu(index=index, reason=str(error), refused=isinstance(error, GpuRefused)))
        return Gpus(
            gpus=self._introduced(found) if with_peers else tuple(gpu for gpu, _ in found),
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

    def computing(self, uuid: str) -> tuple[tuple[int, str], ...]:
        """(pid, name) of the processes that compute on a GPU or MIG instance. Raises GpuLost.

        The server of MPS is not one of them: it stands there for its clients, and without one it does nothing.
        """
        lib = self._lib
        handle = self._one(lib.nvmlDeviceGetHandleByUUID, uuid)
        running: list[Any] = self._or([], lib.nvmlDeviceGetComputeRunningProcesses, handle)
        pids = [int(process.pid) for process in running]
        named = [(pid, _text(self._or("", lib.nvmlSystemGetProcessName, pid)).rpartition("/")[2]) for pid in pids]
        return tuple((pid, name) for pid, name in named if name != MPS_SERVER)

    def condition(self, uuid: str) -> Condition:
        """How the GPU is, or the one with this MIG instance; one that does not answer is a condition, too."""
        lib = self._lib
        try:
            handle = self._handle(uuid)
            gpu = handle
            instance: tuple[int, int] | None = None
            if uuid.startswith("MIG-"):
                gpu = self._one(lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
                gi = self._one(lib.nvmlDeviceGetGpuInstanceId, handle)
                instance = (gi, self._one(lib.nvmlDeviceGetComputeInstanceId, handle))
            self._memory(handle)  # a question that the GPU itself has to answer
            rows = self._or(None, lib.nvmlDeviceGetRemappedRows, gpu)
            return Condition(
                gpu=_text(self._one(lib.nvmlDeviceGetUUID, gpu)),
                instance=instance,
                action=self._recovery_action(gpu),
                uncorrected=self._or(
                    None,
                    lib.nvmlDeviceGetTotalEccErrors,
                    gpu,
                    lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    lib.NVML_VOLATILE_ECC,
                ),
                pages_pending=_flag(self._or(None, lib.nvmlDeviceGetRetiredPagesPendingStatus, gpu)),
                rows_pending=_flag(rows and rows[2]),
                rows_broken=_flag(rows and rows[3]),
            )
        except GpuRefused:
            return Condition()
        except GpuLost as error:
            gpu_of = "" if uuid.startswith("MIG-") else uuid
            return Condition(gpu=gpu_of, lost=f"{self._fate(error.__cause__)} ({error})")

    def _fate(self, cause: BaseException | None) -> str:
        lib = self._lib
        if isinstance(cause, lib.NVMLError_GpuIsLost):
            return "fell off the bus"
        if isinstance(cause, lib.NVMLError_NotFound):
            return "is not there any more"
        return "does not answer"

    def _handle(self, uuid: str) -> Any:
        """A GPU or instance by its UUID. NVML may say "lost" of one because of another that it passes on the way."""
        lib = self._lib
        try:
            return self._one(lib.nvmlDeviceGetHandleByUUID, uuid)
        except GpuLost as error:
            if not isinstance(error.__cause__, lib.NVMLError_GpuIsLost):
                raise
            for handle in self._handles():
                if self._about_peers(lib.nvmlDeviceGetUUID, handle) == uuid:
                    return handle
            raise

    def _handles(self) -> Iterable[Any]:
        """Every GPU and instance that can be got hold of."""
        lib = self._lib
        for index in range(self._whole(lib.nvmlDeviceGetCount)):
            gpu = self._about_peers(lib.nvmlDeviceGetHandleByIndex, index)
            if gpu is None:
                continue
            yield gpu
            for number in range(self._about_peers(lib.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
                instance = self._about_peers(lib.nvmlDeviceGetMigDeviceHandleByIndex, gpu, number)
                if instance is not None:
                    yield instance

    def _recovery_action(self, gpu: Any) -> int | None:
        lib = self._lib
        values = self._or(None, lib.nvmlDeviceGetFieldValues, gpu, [RECOVERY_ACTION])
        if values is None or values[0].nvmlReturn != lib.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def watch_xids(self, uuids: Iterable[str]) -> XidWatch | None:
        """Hear of the critical errors of these GPUs (for an instance, of its GPU) from now on; None where none can."""
        lib = self._lib
        events = self._or(None, lib.nvmlEventSetCreate)
        if events is None:
            return None
        watched: dict[int, str] = {}
        for uuid in dict.fromkeys(uuids):
            with suppress(GpuLost):
                gpu = self._handle(uuid)
                if uuid.startswith("MIG-"):
                    gpu = self._one(lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, gpu)
                place = _place(gpu)
                if place not in watched:
                    name = _text(self._one(lib.nvmlDeviceGetUUID, gpu))
                    self._one(lib.nvmlDeviceRegisterEvents, gpu, lib.nvmlEventTypeXidCriticalError, events)
                    watched[place] = name
        return XidWatch(lib, events, watched)

    def _gpu(self, index: int, handle: Any, capabilities: Capabilities) -> Gpu:
        lib = self._lib
        mig_mode, _ = self._or((0, 0), lib.nvmlDeviceGetMigMode, handle)
        minor = self._or(index, lib.nvmlDeviceGetMinorNumber, handle)
        bus_id = _text(self._one(lib.nvmlDeviceGetPciInfo, handle).busId)
        return Gpu(
            index=index,
            uuid=_text(self._one(lib.nvmlDeviceGetUUID, handle)),
            name=_text(self._one(lib.nvmlDeviceGetName, handle)),
            bus_id=bus_id,
            minor=minor,
            memory_total_mib=self._memory(handle).total // MIB,
            numa=self._numa(handle, bus_id),
            cpus=cpu_list(numbers_in(self._or((), lib.nvmlDeviceGetCpuAffinity, handle, CPU_WORDS))),
            mig_enabled=mig_mode == 1,
            mig=self._instances(handle, minor, capabilities) if mig_mode == 1 else (),
        )

    def _numa(self, gpu: Any, bus_id: str) -> int | None:
        """The host's node next to a GPU; None where that is several.

        `nvmlDeviceGetNumaNodeId` is another question: the node that the memory of a GPU is, where it is one.
        """
        lib = self._lib
        nodes = numbers_in(self._or((), lib.nvmlDeviceGetMemoryAffinity, gpu, NODE_WORDS, lib.NVML_AFFINITY_SCOPE_NODE))
        if not nodes:
            return numa_node_of(bus_id, self._pci_devices)
        return nodes[0] if len(nodes) == 1 else None

    def _instances(self, gpu: Any, minor: int, capabilities: Capabilities) -> tuple[MigInstance, ...]:
        """The MIG devices of a GPU. Their numbers have holes where an instance was destroyed."""
        lib = self._lib
        found = []
        for index in range(self._or(0, lib.nvmlDeviceGetMaxMigDeviceCount, gpu)):
            handle = self._or(None, lib.nvmlDeviceGetMigDeviceHandleByIndex, gpu, index)
            if handle is None:
                continue
            try:
                found.append(self._instance(index, handle, minor, capabilities))
            except GpuLost as error:  # destroyed since, or somebody else's: that is nothing about the GPU
                if not isinstance(error.__cause__, (lib.NVMLError_NotFound, lib.NVMLError_NoPermission)):
                    raise
        return tuple(found)

    def _instance(self, index: int, handle: Any, minor: int, capabilities: Capabilities) -> MigInstance:
        lib = self._lib
        gi = self._one(lib.nvmlDeviceGetGpuInstanceId, handle)
        ci = self._one(lib.nvmlDeviceGetComputeInstanceId, handle)
        return MigInstance(
            index=index,
            uuid=_text(self._one(lib.nvmlDeviceGetUUID, handle)),
            profile=_profile(_text(self._or("", lib.nvmlDeviceGetName, handle))),
            gi=gi,
            ci=ci,
            memory_total_mib=self._memory(handle).total // MIB,
            nodes=capabilities.nodes(minor, gi, ci),
        )

    def _introduced(self, found: Sequence[tuple[Gpu, Any]]) -> tuple[Gpu, ...]:
        """The GPUs with their peers; a pair that the driver cannot tell about is left out."""
        peers: dict[str, dict[str, Link]] = {gpu.uuid: {} for gpu, _ in found}
        buses = {gpu.uuid: self._linked_to(handle) for gpu, handle in found}
        for (one, first), (other, second) in combinations(found, 2):
            link = self._ancestor(first, second)
            if self._nvlink_works(first, second) or other.bus_id in buses[one.uuid]:
                link = Link.NVLINK
            if link is not None:
                peers[one.uuid][other.uuid] = peers[other.uuid][one.uuid] = link
        return tuple(replace(gpu, peers=peers[gpu.uuid]) for gpu, _ in found)

    def _nvlink_works(self, first: Any, second: Any) -> bool:
        """Whether the pair can talk over NVLink, directly or through switches."""
        lib = self._lib
        status = self._about_peers(lib.nvmlDeviceGetP2PStatus, first, second, lib.NVML_P2P_CAPS_INDEX_NVLINK)
        return bool(status == lib.NVML_P2P_STATUS_OK)

    def _linked_to(self, gpu: Any) -> frozenset[str]:
        """Bus ids at the other ends of a GPU's active NVLinks: those of GPUs, unless there are switches between."""
        lib = self._lib
        buses = set()
        for number in range(lib.NVML_NVLINK_MAX_LINKS):
            active = self._about_peers(lib.nvmlDeviceGetNvLinkState, gpu, number)
            if active is None:  # there are no further ones
                break
            remote = self._about_peers(lib.nvmlDeviceGetNvLinkRemotePciInfo, gpu, number) if active else None
            if remote is not None:
                buses.add(_text(remote.busId))
        return frozenset(buses)

    def _ancestor(self, first: Any, second: Any) -> Link | None:
        """How the pair is connected by PCIe."""
        level = self._about_peers(self._lib.nvmlDeviceGetTopologyCommonAncestor, first, second)
        return None if level is None else LINKS.get(level)

    def _about_peers(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """A call about a pair of GPUs, whose failure costs neither of them, even if one has been lost meanwhile."""
        try:
            return self._or(None, call, *arguments)
        except GpuLost:
            return None

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
        except lib.NVMLError_NoPermission as error:
            raise GpuRefused(f"NVML: {error}") from error
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


class XidWatch:
    """The critical errors that the driver reports of some GPUs. It keeps them until they are asked for."""

    def __init__(self, lib: ModuleType, events: Any, watched: dict[int, str]) -> None:
        self._lib = lib
        self._events = events
        self._watched = watched

    def take(self, now: float) -> tuple[Xid, ...]:
        """Those that have come since; they get the time `now`, because the driver tells none."""
        found: list[Xid] = []
        while (event := self._next()) is not None and len(found) < MOST_EVENTS:
            gpu = self._watched.get(_place(event.device), "")
            if event.eventType == self._lib.nvmlEventTypeXidCriticalError and gpu:
                found.append(
                    Xid(
                        gpu=gpu,
                        number=int(event.eventData),
                        at=now,
                        gi=int(event.gpuInstanceId),
                        ci=int(event.computeInstanceId),
                    )
                )
        return tuple(found)

    def close(self) -> None:
        with suppress(self._lib.NVMLError):
            self._lib.nvmlEventSetFree(self._events)

    def _next(self) -> Any:
        """The next one that waits; a driver that does not answer, or tells of no events, has none."""
        try:
            return self._lib.nvmlEventSetWait_v2(self._events, 0)
        except self._lib.NVMLError:
            return None


def _place(handle: Any) -> int:
    """What tells two handles apart: the address that they are."""
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


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
