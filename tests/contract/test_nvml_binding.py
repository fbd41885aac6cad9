"""The agent on NVIDIA's own binding, which loads a library that describes GPUs from a text file.

Each question is asked in a process of its own, since a process loads the library once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_nvml import CONFIGS, variables

ROOT = Path(__file__).parent.parent.parent
INVENTORY = """
import json
from agent.gpu.fake import inventory_to_json
from agent.gpu.nvml import read_inventory
print(json.dumps(inventory_to_json(read_inventory())))
"""
#: Takes a sample, says so, and takes the next one for every line on standard input.
SAMPLER = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
from agent.gpu.stats import sampler_for
sampler = sampler_for(json.loads(sys.argv[1]), environ={})
while True:
    print(json.dumps(sampler.sample() if sampler else None), flush=True)
    if not sys.stdin.readline():
        break
"""


def ask(program: str, config: Path, *arguments: str) -> Any:
    command = [sys.executable, "-c", program, *arguments]
    run = subprocess.run(
        command, env=variables(config), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_gpus_are_described() -> None:
    found = ask(INVENTORY, CONFIGS / "8xh100.conf")
    assert (found["driver_version"], found["cuda_version"]) == ("550.90.07", "12.4")
    assert [gpu["index"] for gpu in found["gpus"]] == list(range(8))
    gpu = found["gpus"][4]
    assert gpu["name"] == "NVIDIA H100 80GB HBM3"
    assert gpu["uuid"].startswith("GPU-")
    assert (gpu["memory_total_mib"], gpu["numa"], gpu["minor"], gpu["mig"]) == (81559, 1, 4, [])


def test_mig_instances_are_described_under_their_gpu() -> None:
    first, second = ask(INVENTORY, CONFIGS / "2xa100-mig.conf")["gpus"]
    assert first["mig_enabled"]
    assert [part["index"] for part in first["mig"]] == list(range(7))
    assert all(part["uuid"].startswith("MIG-") and part["memory_total_mib"] == 4864 for part in first["mig"])
    assert first["mig"][0]["profile"] == "1g.5gb"
    assert not second["mig_enabled"]


def test_lost_gpu_is_reported_and_the_others_are_kept() -> None:
    found = ask(INVENTORY, CONFIGS / "lost.conf")
    assert [gpu["index"] for gpu in found["gpus"]] == [0, 2, 3]
    assert [gpu["index"] for gpu in found["lost"]] == [1]
    assert found["lost"][0]["reason"]


def test_driver_that_finds_nothing_means_no_gpus() -> None:
    assert ask(INVENTORY, CONFIGS / "none.conf") == {"gpus": []}


@pytest.mark.parametrize("config", ["no-driver.conf", "missing.conf"])
def test_driver_that_is_not_loaded_means_unknown(config: str) -> None:
    assert "Driver Not Loaded" in ask(INVENTORY, CONFIGS / config)["unknown"]


def test_usage_memory_and_temperature_are_read_in_order() -> None:
    stats = ask(SAMPLER, CONFIGS / "8xh100.conf", "{}")
    assert stats["gpu_usage"] == [0, 0, 0, 97, 0, 0, 0, 0]
    assert stats["gpu_temperature"] == [35, 35, 35, 71, 35, 35, 35, 35]
    assert stats["gpu_memory_used"][3] == 40960
    assert stats["gpu_memory_free"][0] == 81559 - 559


def test_only_visible_gpus_are_read() -> None:
    stats = ask(SAMPLER, CONFIGS / "8xh100.conf", '{"CUDA_VISIBLE_DEVICES": "3,0"}')
    assert stats["gpu_usage"] == [97, 0]


@pytest.mark.parametrize("visible", ["none", "", "-1"])
def test_nothing_is_read_where_nothing_is_visible(visible: str) -> None:
    assert ask(SAMPLER, CONFIGS / "8xh100.conf", json.dumps({"CUDA_VISIBLE_DEVICES": visible})) is None


def test_mig_instance_has_its_own_memory_and_its_gpus_temperature() -> None:
    uuid = ask(INVENTORY, CONFIGS / "2xa100-mig.conf")["gpus"][0]["mig"][2]["uuid"]
    stats = ask(SAMPLER, CONFIGS / "2xa100-mig.conf", json.dumps({"CUDA_VISIBLE_DEVICES": uuid}))
    assert stats["gpu_memory_used"] == [800]
    assert stats["gpu_usage"] == [100]
    assert stats["gpu_temperature"] == [35]


def test_lost_gpu_and_broken_sensor_read_as_zero_at_their_place() -> None:
    stats = ask(SAMPLER, CONFIGS / "lost.conf", "{}")
    assert stats["gpu_temperature"] == [35, 0, 0, 35]
    assert [free > 0 for free in stats["gpu_memory_free"]] == [True, False, True, True]


def test_gpu_that_is_lost_and_returns_is_logged_once_each(tmp_path: Path) -> None:
    config = tmp_path / "gpus.conf"

    def describe(text: str) -> None:
        fresh = tmp_path / "new"
        fresh.write_text(text)
        fresh.rename(config)

    describe("[gpu 0-1]\n")
    command = [sys.executable, "-c", SAMPLER, "{}"]
    with subprocess.Popen(
        command,
        env=variables(config),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr

        def sample() -> Any:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        process.stdout.readline()
        describe("[gpu 0-1]\n[gpu 1]\nerror = 15\n")
        assert sample()["gpu_temperature"] == [35, 0]
        assert sample()["gpu_temperature"] == [35, 0]
        describe("[gpu 0-1]\ntemperature = 50\n")
        assert sample()["gpu_temperature"] == [50, 50]
        process.stdin.close()
        said = process.stderr.read().splitlines()
    assert len(said) == 2
    assert "GPU 1 does not answer" in said[0]
    assert "GPU 1 answers again" in said[1]


def test_binding_is_not_imported_without_a_library() -> None:
    program = """
import sys
from agent.gpu.nvml import read_inventory
from agent.gpu.stats import sampler_for
import agent.gpu.nvml as nvml
nvml.LIBRARY = "libno-such-thing.so.1"
assert sampler_for({}, environ={}) is None
read_inventory()
print("null" if "pynvml" not in sys.modules else "1")
"""
    assert ask(program, CONFIGS / "none.conf") is None
