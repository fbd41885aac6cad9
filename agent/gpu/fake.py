"""Inventories as JSON: for tests, and for planning a host that is somewhere else.

{"gpus": [{"index": 0, "uuid": "GPU-…", "name": "…", "mig": [{…}]}], "lost": [{"index": 1, "reason": "…"}]}
{"gpus": []}                   this host has none
{"unknown": "reason"}          nobody can tell
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agent.gpu.model import Gpu, Gpus, Inventory, LostGpu, MigInstance, NoGpus, Unknown

_TYPICAL_GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory_total_mib": 81559,
    "numa": None,
    "mig_enabled": False,
}
_TYPICAL_INSTANCE = {"profile": "1g.10gb", "ci": 0, "memory_total_mib": 9856}


def inventory_from_json(data: Mapping[str, Any]) -> Inventory:
    """Read an inventory; what a GPU's entry leaves out is made up from its index."""
    if "unknown" in data:
        return Unknown(str(data["unknown"]))
    gpus = tuple(_gpu(entry, position) for position, entry in enumerate(data["gpus"]))
    lost = tuple(LostGpu(**entry) for entry in data.get("lost", ()))
    if not gpus and not lost:
        return NoGpus()
    return Gpus(
        gpus=gpus,
        lost=lost,
        driver_version=data.get("driver_version", ""),
        cuda_version=data.get("cuda_version", ""),
    )


def inventory_to_json(inventory: Inventory) -> dict[str, Any]:
    """Undo `inventory_from_json`."""
    match inventory:
        case Unknown():
            return {"unknown": inventory.reason}
        case NoGpus():
            return {"gpus": []}
        case Gpus():
            return asdict(inventory)


def _gpu(entry: Mapping[str, Any], position: int) -> Gpu:
    index = entry.get("index", position)
    made_up = {
        "index": index,
        "uuid": f"GPU-00000000-0000-4000-8000-{index:012x}",
        "bus_id": f"00000000:{0x10 + index:02X}:00.0",
        "minor": index,
    }
    instances = tuple(_instance(part, index, number) for number, part in enumerate(entry.get("mig", ())))
    known = {**_TYPICAL_GPU, **made_up, "mig_enabled": bool(instances), **entry, "mig": instances}
    return Gpu(**known)


def _instance(entry: Mapping[str, Any], gpu: int, number: int) -> MigInstance:
    index = entry.get("index", number)
    made_up = {"index": index, "uuid": f"MIG-00000000-0000-4000-8{gpu:03x}-{index:012x}", "gi": 7 + index}
    return MigInstance(**{**_TYPICAL_INSTANCE, **made_up, **entry})
