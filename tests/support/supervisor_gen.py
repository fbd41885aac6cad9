"""Hosts and topologies for tests of the generator, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.gpu.model import Gpu, Gpus, Link, LostGpu, MigInstance
from supervisor_gen.model import AgentSettings, Entry, HostPlan, Place, Selector, Topology

FILE = "topology.conf"
H100 = "NVIDIA H100 80GB HBM3"
A100 = "NVIDIA A100-SXM4-40GB"


def gpu(index: int, name: str = H100, **values: Any) -> Gpu:
    """A GPU whose UUID is `u<index>` and whose minor number is not its index."""
    made_up = {
        "uuid": f"u{index}",
        "bus_id": f"00000000:{0x10 + index:02X}:00.0",
        "minor": index + 1,
        "memory_total_mib": 81559 if name == H100 else 40960,
        "numa": index // 4,
        "cpus": f"{index // 4 * 32}-{index // 4 * 32 + 31}",
    }
    return Gpu(index=index, name=name, **{**made_up, **values})


def instance(gpu_index: int, index: int, profile: str = "1g.10gb", **values: Any) -> MigInstance:
    made_up = {
        "uuid": f"MIG-{gpu_index}-{index}",
        "gi": 7 + index,
        "ci": 0,
        "memory_total_mib": 9856,
        "nodes": (f"/dev/nvidia-caps/nvidia-cap{gpu_index * 20 + index}",),
    }
    return MigInstance(index=index, profile=profile, **{**made_up, **values})


def sliced(index: int, *profiles: str, **values: Any) -> Gpu:
    """A GPU in MIG mode."""
    instances = tuple(instance(index, number, profile) for number, profile in enumerate(profiles))
    return gpu(index, **{"mig_enabled": True, "mig": instances, **values})


def host_of(*gpus: Gpu, lost: Mapping[int, str] | None = None) -> Gpus:
    return Gpus(gpus=gpus, lost=tuple(LostGpu(index=index, reason=why) for index, why in (lost or {}).items()))


def all_to_all(number: int = 8, name: str = H100) -> Gpus:
    """GPUs that all reach each other by NVLink, four to a NUMA node."""
    return linked(number, {(one, other): Link.NVLINK for one in range(number) for other in range(one)}, name=name)


def bridged_pairs() -> Gpus:
    """Eight GPUs in pairs by NVLink bridges, over the index: 0 and 2, 1 and 3, 4 and 6, 5 and 7."""
    return linked(8, {(0, 2): Link.NVLINK, (1, 3): Link.NVLINK, (4, 6): Link.NVLINK, (5, 7): Link.NVLINK})


def switched_pairs() -> Gpus:
    """Eight GPUs on four PCIe switches."""
    return linked(8, {(index, index + 1): Link.SWITCH for index in range(0, 8, 2)})


def linked(number: int, links: Mapping[tuple[int, int], Link], name: str = H100) -> Gpus:
    """GPUs with these links; the others within a NUMA node, or across."""
    both = {**links, **{(other, one): link for (one, other), link in links.items()}}
    return host_of(
        *(
            gpu(
                one,
                name,
                peers={
                    f"u{other}": both.get((one, other), Link.NODE if one // 4 == other // 4 else Link.SYSTEM)
                    for other in range(number)
                    if other != one
                },
            )
            for one in range(number)
        )
    )


def renumbered(inventory: Gpus, gone: Sequence[str] = (), added: Sequence[Gpu] = (), first: bool = False) -> Gpus:
    """The host after GPUs were taken out and others put in (before the rest if `first`), numbered anew."""
    stay = [one for one in inventory.gpus if one.uuid not in gone]
    order = [*added, *stay] if first else [*stay, *added]
    return replace(inventory, gpus=tuple(replace(one, index=index) for index, one in enumerate(order)))


def without(inventory: Gpus, *indexes: int) -> Gpus:
    """The host with these GPUs lost."""
    stay = tuple(
        replace(one, peers={uuid: link for uuid, link in one.peers.items() if uuid not in {f"u{i}" for i in indexes}})
        for one in inventory.gpus
        if one.index not in indexes
    )
    return replace(inventory, gpus=stay, lost=tuple(LostGpu(index=index, reason="Unknown Error") for index in indexes))


def entry(line: int = 1, **values: Any) -> Entry:
    """An entry at `line`; keys of a selector may be given directly, `queues` too."""
    chosen = {key: values.pop(key) for key in ("models", "indexes", "mig", "least_memory_mib") if key in values}
    if "queues" in values:
        values["settings"] = AgentSettings(queues=values.pop("queues"))
    return Entry(place=Place(FILE, line), selector=Selector(**chosen), **values)


def topology(*entries: Entry, groups: Mapping[str, tuple[str, ...]] | None = None) -> Topology:
    return Topology(file=FILE, entries=entries, groups=groups or {})


def names_in(plan: HostPlan) -> dict[str, tuple[str, ...]]:
    """The UUIDs of each agent."""
    return {agent.name: tuple(device.uuid for device in agent.devices) for agent in plan.agents}


def by_label(plan: HostPlan) -> dict[str, str]:
    """The labels of each agent's devices: `{"quad0": "0,1,2,3"}`."""
    return {agent.name: ",".join(device.label for device in agent.devices) for agent in plan.agents}
