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
#: Asked with the options of `read_inventory` as JSON, where there are any.
INVENTORY = """
import json, sys
from agent.gpu.wire import inventory_to_json
from agent.gpu.inventory import read_inventory
print(json.dumps(inventory_to_json(read_inventory(**json.loads((sys.argv + ["{}"])[1])))))
"""
WITH_PEERS = json.dumps({"with_peers": True})
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
    assert gpu["cpus"] == "56-111,168-223"
    assert gpu["peers"] == {}


def describe(folder: Path, text: str) -> Path:
    """A description of GPUs, put in place as a whole."""
    fresh = folder / "new"
    fresh.write_text(text)
    return fresh.rename(folder / "gpus.conf")


def links_of(found: Any) -> dict[str, str]:
    """The links of an inventory by pairs of indexes, which both sides have to agree on."""
    index = {gpu["uuid"]: gpu["index"] for gpu in found["gpus"]}
    links = {(gpu["index"], index[peer]): link for gpu in found["gpus"] for peer, link in gpu["peers"].items()}
    assert all(links[other, one] == link for (one, other), link in links.items())
    return {f"{one}-{other}": link for (one, other), link in links.items() if one < other}


def test_gpus_behind_nvlink_switches_all_reach_each_other_by_nvlink() -> None:
    links = links_of(ask(INVENTORY, CONFIGS / "8xh100.conf", WITH_PEERS))
    assert len(links) == 28
    assert set(links.values()) == {"nvlink"}


def test_peers_are_told_by_bridge_switch_and_socket() -> None:
    assert links_of(ask(INVENTORY, CONFIGS / "4xa100-mixed.conf", WITH_PEERS)) == {
        "0-1": "switch",
        **dict.fromkeys(("0-2", "0-3", "1-2", "1-3"), "system"),
        "2-3": "nvlink",
    }


def test_bridge_is_seen_at_the_links_where_the_driver_does_not_compare_pairs(tmp_path: Path) -> None:
    text = (CONFIGS / "4xa100-mixed.conf").read_text() + "[gpu 0-3]\nerror.nvmlDeviceGetP2PStatus = 13\n"
    links = links_of(ask(INVENTORY, describe(tmp_path, text), WITH_PEERS))
    assert [pair for pair, link in links.items() if link == "nvlink"] == ["2-3"]


def test_every_level_of_the_pcie_tree_has_a_word(tmp_path: Path) -> None:
    levels = "".join(f"topo.{position} = {level}\n" for position, level in enumerate((0, 10, 20, 30, 40, 50, 60), 1))
    found = ask(INVENTORY, describe(tmp_path, f"[gpu 0-7]\n[gpu 0]\n{levels}"), WITH_PEERS)
    assert list(found["gpus"][0]["peers"].values()) == [
        *("board", "switch", "switches", "host_bridge", "node", "system"),
    ]


def test_pair_that_the_driver_cannot_tell_about_is_left_out(tmp_path: Path) -> None:
    text = "[gpu 0-2]\n[gpu 2]\nerror.nvmlDeviceGetTopologyCommonAncestor = 15\n"
    found = ask(INVENTORY, describe(tmp_path, text), WITH_PEERS)
    assert links_of(found) == {"0-1": "node"}
    assert found["lost"] == []


def test_node_of_a_gpus_own_memory_is_not_taken_for_the_hosts(tmp_path: Path) -> None:
    assert ask(INVENTORY, describe(tmp_path, "[gpu 0]\nnuma = 0\nnuma_node_id = 2\n"))["gpus"][0]["numa"] == 0


@pytest.mark.parametrize(
    ("affinity", "numa"), [("memory_nodes = 0-1", None), ("memory_nodes = none", 3), ("", 3), ("memory_nodes = 70", 70)]
)
def test_numa_node_is_the_only_one_next_to_the_gpu_or_what_the_kernel_says(
    affinity: str, numa: int | None, tmp_path: Path
) -> None:
    device = tmp_path / "pci" / "0000:1b:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text("3\n")
    config = describe(tmp_path, f"[gpu 0]\nbus_id = 00000000:1B:00.0\n{affinity}\n")
    options = json.dumps({"pci_devices": str(tmp_path / "pci")})
    assert ask(INVENTORY, config, options)["gpus"][0]["numa"] == numa


def test_calls_that_a_driver_lacks_cost_their_fields_only(tmp_path: Path) -> None:
    lacking = ("CpuAffinity", "MemoryAffinity", "MinorNumber", "MigMode", "P2PStatus", "TopologyCommonAncestor")
    text = "[gpu 0-1]\ncpus = 0-7\nnuma = 1\n" + "".join(f"error.nvmlDeviceGet{call} = 13\n" for call in lacking)
    options = json.dumps({"with_peers": True, "pci_devices": str(tmp_path)})
    found = ask(INVENTORY, describe(tmp_path, text), options)
    assert found["lost"] == []
    assert [(gpu["cpus"], gpu["numa"], gpu["peers"]) for gpu in found["gpus"]] == [("", None, {})] * 2


def test_gpus_of_a_small_host_are_next_to_its_two_cpus() -> None:
    found = ask(INVENTORY, CONFIGS / "small-host.conf", WITH_PEERS)
    assert [(gpu["cpus"], gpu["numa"]) for gpu in found["gpus"]] == [("0", 0)] * 4 + [("1", 0)] * 4


def test_gpus_of_others_are_refused_and_not_lost() -> None:
    found = ask(INVENTORY, CONFIGS / "fenced.conf", WITH_PEERS)
    assert [gpu["index"] for gpu in found["gpus"]] == [1]
    assert [(gpu["index"], gpu["refused"]) for gpu in found["lost"]] == [(0, True), (2, True), (3, True)]
    assert "Insufficient Permissions" in found["lost"][0]["reason"]


def test_process_that_may_use_no_gpu_does_not_know_the_host_to_have_none(tmp_path: Path) -> None:
    found = ask(INVENTORY, describe(tmp_path, "[gpu 0-7]\nerror = 4\n"))
    assert found["unknown"] == "this process may use none of 8 GPUs: NVML: Insufficient Permissions"


def test_stats_of_a_fenced_process_are_those_of_its_own_gpu() -> None:
    assert ask(SAMPLER, CONFIGS / "fenced.conf", "{}")["gpu_temperature"] == [35]


def test_mig_instances_are_described_under_their_gpu() -> None:
    first, second = ask(INVENTORY, CONFIGS / "2xa100-mig.conf")["gpus"]
    assert first["mig_enabled"]
    assert [part["index"] for part in first["mig"]] == list(range(7))
    assert all(part["uuid"].startswith("MIG-") and part["memory_total_mib"] == 4864 for part in first["mig"])
    assert first["mig"][0]["profile"] == "1g.5gb"
    assert not second["mig_enabled"]


def test_capability_nodes_of_mig_instances_are_read_from_the_driver(tmp_path: Path) -> None:
    (tmp_path / "driver" / "nvidia-caps").mkdir(parents=True)
    (tmp_path / "driver" / "nvidia-caps" / "mig-minors").write_text("gpu0/gi7/access 66\ngpu0/gi7/ci0/access 67\n")
    found = ask(INVENTORY, CONFIGS / "2xa100-mig.conf", json.dumps({"proc": str(tmp_path)}))
    nodes = [part["nodes"] for part in found["gpus"][0]["mig"]]
    assert nodes == [["/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"], *[[]] * 6]


@pytest.mark.parametrize("error", [4, 6])
def test_instance_that_is_gone_or_somebody_elses_costs_its_gpu_nothing(error: int, tmp_path: Path) -> None:
    text = (CONFIGS / "2xa100-mig.conf").read_text() + f"[mig 0 3]\nerror.nvmlDeviceGetUUID = {error}\n"
    found = ask(INVENTORY, describe(tmp_path, text))
    assert [part["index"] for part in found["gpus"][0]["mig"]] == [0, 1, 2, 4, 5, 6]
    assert found["lost"] == []


def test_lost_gpu_is_reported_and_the_others_are_kept() -> None:
    found = ask(INVENTORY, CONFIGS / "lost.conf")
    assert [gpu["index"] for gpu in found["gpus"]] == [0, 2, 3]
    assert [gpu["index"] for gpu in found["lost"]] == [1]
    assert found["lost"][0]["reason"]


def test_driver_that_finds_nothing_means_no_gpus() -> None:
    assert ask(INVENTORY, CONFIGS / "none.conf") == {"version": 1, "gpus": []}


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
    config = describe(tmp_path, "[gpu 0-1]\n")
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
        describe(tmp_path, "[gpu 0-1]\n[gpu 1]\nerror = 15\n")
        assert sample()["gpu_temperature"] == [35, 0]
        assert sample()["gpu_temperature"] == [35, 0]
        describe(tmp_path, "[gpu 0-1]\ntemperature = 50\n")
        assert sample()["gpu_temperature"] == [50, 50]
        process.stdin.close()
        said = process.stderr.read().splitlines()
    assert len(said) == 2
    assert "GPU 1 does not answer" in said[0]
    assert "GPU 1 answers again" in said[1]


#: What a look finds, then the next one after a line in the file of XID errors.
CHECKUP = """
import json, sys
from dataclasses import asdict
from agent.gpu.checkup import Checkup
from agent.gpu.health import Device
uuids, events = json.loads(sys.argv[1])
checkup = Checkup([Device(label=str(at), uuid=uuid) for at, uuid in enumerate(uuids)])
first = checkup.look(1.0)
with open(events, "a") as file:
    print(*sys.argv[2:], file=file, sep="\\n")
second = checkup.look(2.0)
print(json.dumps([[asdict(c) for c in first.conditions.values()], [asdict(x) for x in second.xids], first.silence]))
"""
GPU = "GPU-fa4e0000-0000-4000-8000-{:012x}"
MIG = "MIG-fa4e0000-0000-4000-8{:03x}-{:012x}"


def check_up(tmp_path: Path, text: str, uuids: list[str], *xids: str) -> Any:
    events = tmp_path / "xids"
    events.touch()
    config = describe(tmp_path, f"[system]\nevents = {events}\n{text}")
    return ask(CHECKUP, config, json.dumps([uuids, str(events)]), *xids)


def test_a_gpu_that_is_well_has_an_answer_to_every_question(tmp_path: Path) -> None:
    conditions, xids, _ = check_up(tmp_path, "[gpu 0]\nrecovery_action = 0\n", [GPU.format(0)])
    assert conditions == [
        {
            "gpu": GPU.format(0),
            "instance": None,
            "lost": "",
            "action": 0,
            "uncorrected": 0,
            "pages_pending": False,
            "rows_pending": False,
            "rows_broken": False,
        }
    ]
    assert xids == []


def test_what_a_driver_cannot_tell_of_the_health_of_a_gpu_is_not_known(tmp_path: Path) -> None:
    unknown = "".join(
        f"error.nvmlDeviceGet{name} = 3\n" for name in ("RetiredPagesPendingStatus", "RemappedRows", "FieldValues")
    )
    ((found,), _, _) = check_up(tmp_path, f"[gpu 0]\necc = 0\n{unknown}", [GPU.format(0)])
    assert [found[name] for name in ("lost", "action", "uncorrected", "pages_pending", "rows_pending")] == [
        "",
        *[None] * 4,
    ]


def test_every_question_about_the_health_of_a_gpu_reaches_its_driver(tmp_path: Path) -> None:
    text = "[gpu 0]\nrecovery_action = 4\necc_uncorrected = 7\nretired_pages = 1\nrows_pending = 1\nrows_broken = 1\n"
    ((found,), _, _) = check_up(tmp_path, text, [GPU.format(0)])
    assert (found["action"], found["uncorrected"]) == (4, 7)
    assert (found["pages_pending"], found["rows_pending"], found["rows_broken"]) == (True, True, True)


def test_a_gpu_is_found_behind_one_that_is_lost_and_one_that_is_gone_is_told_apart(tmp_path: Path) -> None:
    """NVML may answer the question for a UUID with "lost" because of another GPU."""
    text = "[gpu 0-1]\n[gpu 0]\nerror = 15\n[gpu 1]\nerror.nvmlDeviceGetHandleByUUID = 15\n"
    conditions, _, _ = check_up(tmp_path, text, [GPU.format(0), GPU.format(1), GPU.format(9)])
    assert [condition["lost"] for condition in conditions] == [
        "fell off the bus (NVML: GPU is lost)",
        "",
        "is not there any more (NVML: Not Found)",
    ]


def test_a_gpu_that_is_fenced_off_is_not_judged(tmp_path: Path) -> None:
    ((found,), _, _) = check_up(tmp_path, "[gpu 0]\nerror = 4\n", [GPU.format(0)])
    assert (found["gpu"], found["lost"]) == ("", "")


def test_xids_are_told_with_gpu_and_instance_and_only_of_gpus_that_are_watched(tmp_path: Path) -> None:
    conditions, xids, _ = check_up(
        tmp_path,
        (CONFIGS / "2xa100-mig.conf").read_text(),
        [MIG.format(0, 2)],
        "0 95 9 0",
        "1 79",
        "0 48",
    )
    assert (conditions[0]["gpu"], conditions[0]["instance"]) == (GPU.format(0), [9, 0])
    nothing = 0xFFFFFFFF
    assert [(xid["gpu"], xid["number"], xid["gi"], xid["ci"], xid["at"]) for xid in xids] == [
        (GPU.format(0), 95, 9, 0, 2.0),
        (GPU.format(0), 48, nothing, nothing, 2.0),
    ]


def test_a_driver_without_events_is_one_without_xids(tmp_path: Path) -> None:
    text = "[gpu 0]\nerror.nvmlDeviceRegisterEvents = 3\n"
    conditions, xids, _ = check_up(tmp_path, text, [GPU.format(0)], "0 48")
    assert conditions[0]["lost"] == ""
    assert xids == []


def test_a_driver_that_is_not_loaded_says_so_of_itself(tmp_path: Path) -> None:
    conditions, _, silence = check_up(tmp_path, "init_error = 9\n", [GPU.format(0)])
    assert conditions == []
    assert silence == "NVML: Driver Not Loaded"


def test_binding_and_what_asks_through_it_are_not_imported_without_a_library() -> None:
    program = """
import json, sys
import agent.gpu.nvml as nvml
from agent.gpu.stats import sampler_for
nvml.LIBRARY = "libno-such-thing.so.1"
assert sampler_for({}, environ={}) is None
of_sampler = [name for name in ("inventory", "peers", "condition", "checkup") if f"agent.gpu.{name}" in sys.modules]
from agent.gpu.inventory import read_inventory
read_inventory(with_peers=True)
print(json.dumps([of_sampler, "pynvml" in sys.modules, "agent.gpu.peers" in sys.modules]))
"""
    assert ask(program, CONFIGS / "none.conf") == [[], False, False]
