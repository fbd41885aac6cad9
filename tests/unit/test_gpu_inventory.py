"""Inventories as JSON, what is read besides NVML, and readings as machine_stats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError, GpuSpecError
from agent.gpu.capabilities import Capabilities
from agent.gpu.kernel import cpu_list, numa_node_of, numbers_in, nvidia_device_is_present
from agent.gpu.model import NOTHING_READ, Gpu, Gpus, Inventory, Link, LostGpu, MigInstance, NoGpus, Reading, Unknown
from agent.gpu.stats import stats_of, visible_devices
from agent.gpu.visible import check, parse_visibility
from agent.gpu.wire import Described, host_to_json, hosts_from_json, inventory_from_json, inventory_to_json

MIXED: dict[str, Any] = {
    "gpus": [{"mig": [{}, {"index": 2}]}, {}, {"index": 3}],
    "lost": [{"index": 2, "reason": "fell off the bus"}, {"index": 4, "reason": "no permission", "refused": True}],
    "driver_version": "550.1",
}

NUMBERS = st.integers(0, 2**40)
UUIDS = st.from_regex(r"(GPU|MIG)-[0-9A-Za-z/-]{1,40}", fullmatch=True)
CPUS = st.lists(st.integers(0, 8191), unique=True).map(sorted).map(cpu_list)
NODES = st.lists(st.integers(1, 8191).map("/dev/nvidia-caps/nvidia-cap{}".format)).map(tuple)
INSTANCES = st.builds(
    MigInstance,
    **dict.fromkeys(("index", "gi", "ci", "memory_total_mib"), NUMBERS),
    uuid=UUIDS,
    profile=st.text(),
    nodes=NODES,
)
GPUS = st.builds(
    Gpu,
    **dict.fromkeys(("index", "minor", "memory_total_mib"), NUMBERS),
    **dict.fromkeys(("name", "bus_id"), st.text()),
    uuid=UUIDS,
    numa=st.none() | NUMBERS,
    cpus=CPUS,
    mig_enabled=st.booleans(),
    mig=st.lists(INSTANCES, max_size=3).map(tuple),
    peers=st.dictionaries(UUIDS, st.sampled_from(Link), max_size=4),
)
LOST = st.builds(LostGpu, index=NUMBERS, reason=st.text(), refused=st.booleans())


def is_of_one_host(inventory: Gpus) -> bool:
    indexes = [*(gpu.index for gpu in inventory.gpus), *(gpu.index for gpu in inventory.lost)]
    uuids = [uuid for gpu in inventory.gpus for uuid in (gpu.uuid, *(part.uuid for part in gpu.mig))]
    return len({*indexes}) == len(indexes) > 0 and len({*uuids}) == len(uuids)


HOSTS = st.builds(
    Gpus,
    gpus=st.lists(GPUS, max_size=4).map(tuple),
    lost=st.lists(LOST, max_size=2).map(tuple),
    driver_version=st.text(),
    cuda_version=st.text(),
).filter(is_of_one_host)


@given(inventory=HOSTS | st.just(NoGpus()) | st.builds(Unknown, st.text()), host=st.text())
def test_what_was_written_is_read_back_exactly(inventory: Inventory, host: str) -> None:
    described = Described(host=host, inventory=inventory)
    (read,) = hosts_from_json(json.loads(json.dumps(host_to_json(described))))
    assert read == described
    assert inventory_from_json(inventory_to_json(inventory)) == inventory


def test_three_answers_are_three_values() -> None:
    assert isinstance(inventory_from_json(MIXED), Gpus)
    assert inventory_from_json({"gpus": []}) == NoGpus()
    assert inventory_from_json({"unknown": "why"}) == Unknown("why")


def test_what_an_entry_leaves_out_is_typical() -> None:
    found = inventory_from_json(MIXED)
    assert isinstance(found, Gpus)
    assert [gpu.minor for gpu in found.gpus] == [0, 1, 3]
    assert [gpu.mig_enabled for gpu in found.gpus] == [True, False, False]
    assert found.gpus[2] == Gpu(
        index=3,
        uuid="GPU-00000000-0000-4000-8000-000000000003",
        name="NVIDIA H100 80GB HBM3",
        bus_id="00000000:13:00.0",
        minor=3,
        memory_total_mib=81559,
    )


def test_list_describes_one_host_after_the_other() -> None:
    found = list(hosts_from_json([{"host": "gpu01", "gpus": [{}]}, {"host": "gpu02", "unknown": "off"}, {"gpus": []}]))
    assert [described.host for described in found] == ["gpu01", "gpu02", ""]
    assert found[1].inventory == Unknown("off")


def test_hosts_share_what_they_have_in_common() -> None:
    """Most of an inventory is the same words on every host; a fleet of 1,000 would not fit otherwise."""
    text = json.dumps({"gpus": [{"name": "NVIDIA H100", "cpus": "0-55", "peers": {"GPU-other": "nvlink"}}]})
    one, other = (inventory_from_json(json.loads(text)) for _ in range(2))
    assert isinstance(one, Gpus)
    assert isinstance(other, Gpus)
    assert one.gpus[0].name is other.gpus[0].name
    assert one.gpus[0].cpus is other.gpus[0].cpus
    assert one.gpus[0].bus_id is other.gpus[0].bus_id
    assert one.gpus[0].uuid is other.gpus[0].uuid
    assert next(iter(one.gpus[0].peers)) is next(iter(other.gpus[0].peers))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "expected an object, not a list"),
        ({}, "gpus: expected a list, not nothing"),
        ({"gpus": {}}, "gpus: expected a list, not an object"),
        ({"gpus": [{}, 7]}, "gpus[1]: expected an object, not 7"),
        ({"gpus": [{}, {}, {}, {"minor": "3"}]}, "gpus[3].minor: expected a whole number, not '3'"),
        ({"gpus": [{"index": True}]}, "gpus[0].index: expected a whole number, not True"),
        ({"gpus": [{"index": -1}]}, "gpus[0].index: expected a whole number, not -1"),
        ({"gpus": [{"minor": None}]}, "gpus[0].minor: expected a whole number, not null"),
        ({"gpus": [{"numa": 0.0}]}, "gpus[0].numa: expected a whole number, not 0.0"),
        ({"gpus": [{"name": ["H100"]}]}, "gpus[0].name: expected text, not a list"),
        ({"gpus": [{"mig_enabled": 1}]}, "gpus[0].mig_enabled: expected true or false, not 1"),
        ({"gpus": [{"cpus": "0-7;"}]}, "gpus[0].cpus: expected a list of CPUs, not '0-7;'"),
        ({"gpus": [{"uuid": "GPU-1\nUser=root"}]}, "gpus[0].uuid: expected a UUID, not 'GPU-1\\nUser=root'"),
        ({"gpus": [{"memory": 4}]}, "gpus[0].memory: unknown key"),
        ({"gpus": [{"mig": [{"uid": "MIG-1"}]}]}, "gpus[0].mig[0].uid: unknown key; did you mean uuid?"),
        (
            {"gpus": [{"mig": [{"nodes": "/dev/x"}]}]},
            "gpus[0].mig[0].nodes: expected a list of device nodes, not '/dev/x'",
        ),
        (
            {"gpus": [{"mig": [{"nodes": ["/dev/a b"]}]}]},
            "gpus[0].mig[0].nodes: expected a list of device nodes, not a list",
        ),
        ({"gpus": [{"peers": []}]}, "gpus[0].peers: expected an object, not a list"),
        ({"gpus": [{}, {"uuid": "GPU-1"}, {"uuid": "GPU-1"}]}, "gpus[2].uuid: GPU-1 is there twice"),
        ({"gpus": [{}, {}], "lost": [{"index": 1, "reason": ""}]}, "lost[0].index: 1 is there twice"),
        ({"gpus": [], "lost": [{"index": 1}]}, "lost[0].reason: is missing"),
        ({"unknown": 5}, "unknown: expected text, not 5"),
        ({"unknown": "why", "gpus": []}, "gpus: unknown key"),
        ({"version": 2, "gpus": []}, "version: 2 is not a format that this version reads (1)"),
        ({"host": None, "gpus": []}, "host: expected text, not null"),
    ],
)
def test_inventory_that_is_wrong_is_refused_with_the_place(data: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        inventory_from_json(data)
    assert str(refused.value) == problem
    with pytest.raises(ConfigError) as refused:
        list(hosts_from_json([{"gpus": []}, data], source="hosts.json"))
    assert str(refused.value) == f"hosts.json: [1]{'.' if isinstance(data, dict) else ': '}{problem}"


def test_link_that_nobody_knows_is_refused_with_the_words_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^gpus\[0\]\.peers\.GPU-2: expected one of nvlink, board, .*, not 'nvlnk'$"):
        inventory_from_json({"gpus": [{"peers": {"GPU-1": "nvlink", "GPU-2": "nvlnk"}}]})
    with pytest.raises(ConfigError, match=r"^gpus\[0\]\.peers\.GPU-1: expected one of .*, not a list$"):
        inventory_from_json({"gpus": [{"peers": {"GPU-1": ["nvlink"]}}]})


@pytest.mark.parametrize(
    ("visible", "labels"),
    [
        (None, ["0:0", "0:2", "1", "2", "3"]),
        ("1", ["1"]),
        ("3,1", ["3", "1"]),
        ("2", ["2"]),
        ("0", ["0:0", "0:2"]),
        ("9", []),
        ("GPU-00000000-0000-4000-8000-000000000003", ["3"]),
        ("MIG-00000000-0000-4000-8000-000000000002", ["0:2"]),
    ],
)
def test_visible_devices_follow_cuda(visible: str | None, labels: list[str]) -> None:
    inventory = inventory_from_json(MIXED)
    assert isinstance(inventory, Gpus)
    assert [device.label for device in visible_devices(inventory, visible)] == labels


BUSY = Reading(usage_percent=97.0, memory_used_mib=1000.12345, memory_free_mib=24.0, temperature_celsius=70.0)
MIG = Reading(usage_percent=None, memory_used_mib=10.0, memory_free_mib=5.0, temperature_celsius=40.0)


def test_stats_keep_every_gpu_at_its_place() -> None:
    assert stats_of([BUSY, NOTHING_READ, MIG], default_utilization=100.0) == {
        "gpu_usage": [97.0, 0.0, 100.0],
        "gpu_memory_used": [1000.123, 0.0, 10.0],
        "gpu_memory_free": [24.0, 0.0, 5.0],
        "gpu_temperature": [70.0, 0.0, 40.0],
    }


def test_utilization_that_nobody_knows_is_left_out_where_there_is_no_default() -> None:
    assert "gpu_usage" not in stats_of([MIG, MIG], default_utilization=None)
    assert stats_of([BUSY, MIG], default_utilization=None)["gpu_usage"] == [97.0, 0.0]


def test_no_gpu_no_stats() -> None:
    assert stats_of([], default_utilization=100.0) == {}


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x1002", "0x030000", False)],
)
def test_nvidia_device_is_told_by_vendor_and_class(vendor: str, kind: str, found: bool, tmp_path: Path) -> None:
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")
    assert nvidia_device_is_present(str(tmp_path)) is found


def test_host_without_a_pci_bus_has_no_nvidia_device(tmp_path: Path) -> None:
    assert not nvidia_device_is_present(str(tmp_path / "none"))


def test_gpu_of_somebody_else_is_refused_by_that_name() -> None:
    with pytest.raises(GpuSpecError, match=r"GPU 4 is not for this process \(no permission\)"):
        check(parse_visibility("4", False, {}), inventory_from_json(MIXED))
    with pytest.raises(GpuSpecError, match=r"GPU 2 does not answer \(fell off the bus\)"):
        check(parse_visibility("2", False, {}), inventory_from_json(MIXED))


@given(st.sets(st.integers(0, 8191)))
def test_mask_is_written_as_the_kernel_writes_a_list(numbers: set[int]) -> None:
    words = [sum(1 << number % 64 for number in numbers if number // 64 == position) for position in range(128)]
    assert numbers_in(words) == sorted(numbers)
    written = [part.split("-") for part in cpu_list(numbers_in(words)).split(",") if part]
    assert {number for part in written for number in range(int(part[0]), int(part[-1]) + 1)} == numbers


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ([], ""),
        ([0], "0"),
        ([0, 1], "0-1"),
        ([0, 2, 3, 4, 64], "0,2-4,64"),
        ([*range(56), *range(112, 168)], "0-55,112-167"),
    ],
)
def test_neighbours_are_written_as_one_range(numbers: list[int], written: str) -> None:
    assert cpu_list(numbers) == written


@pytest.mark.parametrize(
    ("bus_id", "node"), [("00000000:1B:00.0", 1), ("00010000:01:00.0", 0), ("00000000:02:00.0", None), ("", None)]
)
def test_numa_node_is_found_under_the_kernels_name_of_the_device(bus_id: str, node: int | None, tmp_path: Path) -> None:
    for name, text in (("0000:1b:00.0", "1\n"), ("10000:01:00.0", "0\n"), ("0000:02:00.0", "-1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "numa_node").write_text(text)
    assert numa_node_of(bus_id, str(tmp_path)) == node
    assert numa_node_of(bus_id, str(tmp_path / "none")) is None


def say(proc: Path, capability: str, minor: int) -> None:
    """Describe a capability as the driver does in its own file."""
    file = proc / "driver" / "nvidia" / "capabilities" / capability
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")


def tabulate(proc: Path, text: str) -> None:
    """Write the driver's table of all capabilities."""
    (proc / "driver" / "nvidia-caps").mkdir(parents=True)
    (proc / "driver" / "nvidia-caps" / "mig-minors").write_text(text)


def test_capability_nodes_are_those_of_the_instances_own_files(tmp_path: Path) -> None:
    say(tmp_path, "gpu3/mig/gi1/access", 417)
    say(tmp_path, "gpu3/mig/gi1/ci0/access", 418)
    tabulate(tmp_path, "gpu3/gi1/access 1\ngpu3/gi1/ci0/access 2\n")
    nodes = Capabilities(str(tmp_path)).nodes(3, 1, 0)
    assert nodes == ("/dev/nvidia-caps/nvidia-cap417", "/dev/nvidia-caps/nvidia-cap418")


def test_capability_nodes_are_taken_from_the_table_where_there_is_no_file(tmp_path: Path) -> None:
    tabulate(tmp_path, "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\ngpu0/gi1/ci1/access 14\n")
    capabilities = Capabilities(str(tmp_path))
    assert capabilities.nodes(0, 1, 1) == ("/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap14")
    assert capabilities.nodes(1, 1, 1) == ()


def test_half_of_the_capability_nodes_is_none(tmp_path: Path) -> None:
    say(tmp_path, "gpu0/mig/gi1/access", 12)
    assert Capabilities(str(tmp_path)).nodes(0, 1, 0) == ()
    assert Capabilities(str(tmp_path / "none")).nodes(0, 1, 0) == ()
