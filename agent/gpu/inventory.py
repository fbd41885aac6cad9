"""Which GPUs and MIG instances a host has, and what they are: read from NVML, and from the kernel what NVML leaves out.

Whoever holds an opened `Nvml` surveys through it; `read_inventory` is for everybody else, and has an answer on hosts
without a library, too.
"""

from __future__ import annotations

from typing import Any

from agent.gpu.capabilities import PROC, Capabilities
from agent.gpu.kernel import PCI_DEVICES, cpu_list, numa_node_of, numbers_in, nvidia_device_is_present
from agent.gpu.model import Gpu, Gpus, Inventory, LostGpu, MigInstance, NoGpus, Unknown
from agent.gpu.nvml import LIBRARY, MIB, GpuLost, GpuRefused, Nvml, NvmlFailed, library_is_present, text_of

#: 64-bit words that hold the kernel's most CPUs (8192) and NUMA nodes (1024). Not as many as there are now: numbers
#: have holes where a CPU is offline, and a mask that is too short is cut off without a word.
CPU_WORDS = 8192 // 64
NODE_WORDS = 1024 // 64


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
        with Nvml() as nvml:
            found = survey(nvml, with_peers=with_peers, proc=proc, pci_devices=pci_devices)
    except NvmlFailed as error:
        return Unknown(str(error))
    if not found.gpus and any(gpu.refused for gpu in found.lost):
        return Unknown(f"this process may use none of {len(found.lost)} GPUs: {found.lost[0].reason}")
    return found if found.gpus or found.lost else NoGpus()


def survey(nvml: Nvml, *, with_peers: bool = False, proc: str = PROC, pci_devices: str = PCI_DEVICES) -> Gpus:
    """All GPUs by index; one that fails is among the lost and costs the others nothing."""
    lib = nvml.lib
    surveyor = _Surveyor(nvml, Capabilities(proc), pci_devices)
    found: list[tuple[Gpu, Any]] = []
    lost = []
    for index in range(nvml.whole(lib.nvmlDeviceGetCount)):
        try:
            handle = nvml.one(lib.nvmlDeviceGetHandleByIndex, index)
            found.append((surveyor.gpu(index, handle), handle))
        except GpuLost as error:
            lost.append(LostGpu(index=index, reason=str(error), refused=isinstance(error, GpuRefused)))
    return Gpus(
        gpus=_introduced(nvml, found) if with_peers else tuple(gpu for gpu, _ in found),
        lost=tuple(lost),
        driver_version=text_of(nvml.whole(lib.nvmlSystemGetDriverVersion)),
        cuda_version=_cuda_version(nvml.one_or(0, lib.nvmlSystemGetCudaDriverVersion)),
    )


def _introduced(nvml: Nvml, found: list[tuple[Gpu, Any]]) -> tuple[Gpu, ...]:
    from agent.gpu.peers import introduced

    return introduced(nvml, found)


class _Surveyor:
    """Describes one GPU after the other."""

    def __init__(self, nvml: Nvml, capabilities: Capabilities, pci_devices: str) -> None:
        self._nvml = nvml
        self._capabilities = capabilities
        self._pci_devices = pci_devices

    def gpu(self, index: int, handle: Any) -> Gpu:
        nvml, lib = self._nvml, self._nvml.lib
        mig_mode, _ = nvml.one_or((0, 0), lib.nvmlDeviceGetMigMode, handle)
        minor = nvml.one_or(index, lib.nvmlDeviceGetMinorNumber, handle)
        bus_id = text_of(nvml.one(lib.nvmlDeviceGetPciInfo, handle).busId)
        return Gpu(
            index=index,
            uuid=text_of(nvml.one(lib.nvmlDeviceGetUUID, handle)),
            name=text_of(nvml.one(lib.nvmlDeviceGetName, handle)),
            bus_id=bus_id,
            minor=minor,
            memory_total_mib=nvml.memory(handle).total // MIB,
            numa=self._numa(handle, bus_id),
            cpus=cpu_list(numbers_in(nvml.one_or((), lib.nvmlDeviceGetCpuAffinity, handle, CPU_WORDS))),
            mig_enabled=mig_mode == 1,
            mig=self._instances(handle, minor) if mig_mode == 1 else (),
        )

    def _numa(self, gpu: Any, bus_id: str) -> int | None:
        """The host's node next to a GPU; None where that is several.

        `nvmlDeviceGetNumaNodeId` is another question: the node that the memory of a GPU is, where it is one.
        """
        lib = self._nvml.lib
        scope = lib.NVML_AFFINITY_SCOPE_NODE
        nodes = numbers_in(self._nvml.one_or((), lib.nvmlDeviceGetMemoryAffinity, gpu, NODE_WORDS, scope))
        if not nodes:
            return numa_node_of(bus_id, self._pci_devices)
        return nodes[0] if len(nodes) == 1 else None

    def _instances(self, gpu: Any, minor: int) -> tuple[MigInstance, ...]:
        """The MIG devices of a GPU. Their numbers have holes where an instance was destroyed."""
        lib = self._nvml.lib
        found = []
        for index in range(self._nvml.one_or(0, lib.nvmlDeviceGetMaxMigDeviceCount, gpu)):
            handle = self._nvml.one_or(None, lib.nvmlDeviceGetMigDeviceHandleByIndex, gpu, index)
            if handle is None:
                continue
            try:
                found.append(self._instance(index, handle, minor))
            except GpuLost as error:  # destroyed since, or somebody else's: that is nothing about the GPU
                if not isinstance(error.__cause__, (lib.NVMLError_NotFound, lib.NVMLError_NoPermission)):
                    raise
        return tuple(found)

    def _instance(self, index: int, handle: Any, minor: int) -> MigInstance:
        nvml, lib = self._nvml, self._nvml.lib
        gi = nvml.one(lib.nvmlDeviceGetGpuInstanceId, handle)
        ci = nvml.one(lib.nvmlDeviceGetComputeInstanceId, handle)
        return MigInstance(
            index=index,
            uuid=text_of(nvml.one(lib.nvmlDeviceGetUUID, handle)),
            profile=_profile(text_of(nvml.one_or("", lib.nvmlDeviceGetName, handle))),
            gi=gi,
            ci=ci,
            memory_total_mib=nvml.memory(handle).total // MIB,
            nodes=self._capabilities.nodes(minor, gi, ci),
        )


def _cuda_version(number: int) -> str:
    """12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _profile(name: str) -> str:
    """`NVIDIA A100-SXM4-40GB MIG 1g.5gb` ends in the profile."""
    return name.rpartition("MIG ")[2] if "MIG " in name else name
