"""How the GPUs of a host reach each other, asked of an opened NVML pair by pair.

These are several calls for every pair. Only who places agents on GPUs has a use for the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from agent.gpu.model import Gpu, Link
from agent.gpu.nvml import Nvml, text_of

#: nvmlGpuTopologyLevel_t.
LINKS = {
    0: Link.BOARD,
    10: Link.SWITCH,
    20: Link.SWITCHES,
    30: Link.HOST_BRIDGE,
    40: Link.NODE,
    50: Link.SYSTEM,
}


def introduced(nvml: Nvml, found: Sequence[tuple[Gpu, Any]]) -> tuple[Gpu, ...]:
    """The GPUs with their peers, from GPUs with their handles; a pair that the driver cannot tell about is left out."""
    peers: dict[str, dict[str, Link]] = {gpu.uuid: {} for gpu, _ in found}
    buses = {gpu.uuid: _linked_to(nvml, handle) for gpu, handle in found}
    for (one, first), (other, second) in combinations(found, 2):
        link = _ancestor(nvml, first, second)
        if _nvlink_works(nvml, first, second) or other.bus_id in buses[one.uuid]:
            link = Link.NVLINK
        if link is not None:
            peers[one.uuid][other.uuid] = peers[other.uuid][one.uuid] = link
    return tuple(replace(gpu, peers=peers[gpu.uuid]) for gpu, _ in found)


def _nvlink_works(nvml: Nvml, first: Any, second: Any) -> bool:
    """Whether the pair can talk over NVLink, directly or through switches."""
    lib = nvml.lib
    status = nvml.or_nothing(lib.nvmlDeviceGetP2PStatus, first, second, lib.NVML_P2P_CAPS_INDEX_NVLINK)
    return bool(status == lib.NVML_P2P_STATUS_OK)


def _linked_to(nvml: Nvml, gpu: Any) -> frozenset[str]:
    """Bus ids at the other ends of a GPU's active NVLinks: those of GPUs, unless there are switches between."""
    lib = nvml.lib
    buses = set()
    for number in range(lib.NVML_NVLINK_MAX_LINKS):
        active = nvml.or_nothing(lib.nvmlDeviceGetNvLinkState, gpu, number)
        if active is None:  # there are no further ones
            break
        remote = nvml.or_nothing(lib.nvmlDeviceGetNvLinkRemotePciInfo, gpu, number) if active else None
        if remote is not None:
            buses.add(text_of(remote.busId))
    return frozenset(buses)


def _ancestor(nvml: Nvml, first: Any, second: Any) -> Link | None:
    """How the pair is connected by PCIe."""
    level = nvml.or_nothing(nvml.lib.nvmlDeviceGetTopologyCommonAncestor, first, second)
    return None if level is None else LINKS.get(level)
