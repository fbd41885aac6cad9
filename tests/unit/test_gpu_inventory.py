"""Inventories as JSON, and readings as machine_stats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.gpu.fake import inventory_from_json, inventory_to_json
from agent.gpu.model import NOTHING_READ, Gpus, NoGpus, Reading, Unknown
from agent.gpu.nvml import nvidia_device_is_present
from agent.gpu.stats import stats_of, visible_devices

MIXED: dict[str, Any] = {
    "gpus": [{"mig": [{}, {"index": 2}]}, {}, {"index": 3}],
    "lost": [{"index": 2, "reason": "fell off the bus"}],
    "driver_version": "550.1",
}


def test_three_answers_are_three_values() -> None:
    assert isinstance(inventory_from_json(MIXED), Gpus)
    assert inventory_from_json({"gpus": []}) == NoGpus()
    assert inventory_from_json({"unknown": "why"}) == Unknown("why")


@pytest.mark.parametrize("data", [MIXED, {"gpus": []}, {"unknown": "why"}])
def test_inventory_survives_json(data: dict[str, Any]) -> None:
    inventory = inventory_from_json(data)
    assert inventory_from_json(inventory_to_json(inventory)) == inventory


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
