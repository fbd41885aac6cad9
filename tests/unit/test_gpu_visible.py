"""What `--gpus` stands for: variables, worker ids, refusals."""

from __future__ import annotations

import pytest

from agent.errors import GpuSpecError
from agent.gpu.visible import check, parse_visibility
from agent.gpu.wire import inventory_from_json

ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
TWO_GPUS = inventory_from_json(
    {
        "gpus": [{"mig": [{"index": 1, "uuid": "MIG-one"}]}, {"uuid": "GPU-second"}],
        "lost": [{"index": 2, "reason": "gone"}],
    }
)
NONE = inventory_from_json({"gpus": []})
UNKNOWN = inventory_from_json({"unknown": "driver not loaded"})


@pytest.mark.parametrize(
    ("spec", "nvidia", "cuda", "suffix"),
    [
        ("0", "0", "0", "gpu0"),
        ("0,1", "0,1", "0,1", "gpu0,1"),
        ("1, 0", "1,0", "1,0", "gpu1,0"),
        ("0-3", "0,1,2,3", "0,1,2,3", "gpu0,1,2,3"),
        ("0:1", "0:1", "0:1", "gpu0.1"),
        ("0.1,1:2", "0:1,1:2", "0:1,1:2", "gpu0.1,1.2"),
        ("GPU-abc", "GPU-abc", "GPU-abc", "gpuGPU-abc"),
        ("MIG-abc", "MIG-abc", "MIG-abc", "gpuMIG-abc"),
        ("none", "none", "none", None),
    ],
)
def test_devices_become_variables_and_part_of_the_worker_id(
    spec: str, nvidia: str, cuda: str, suffix: str | None
) -> None:
    visibility = parse_visibility(spec, False, {})
    assert visibility.environment() == {"NVIDIA_VISIBLE_DEVICES": nvidia, "CUDA_VISIBLE_DEVICES": cuda, **ORDER}
    assert visibility.worker_suffix() == suffix
    assert visibility.unset() == ()


def test_all_takes_away_what_would_narrow_it() -> None:
    visibility = parse_visibility("all", False, {"CUDA_VISIBLE_DEVICES": "0"})
    assert visibility.environment() == {"NVIDIA_VISIBLE_DEVICES": "all", **ORDER}
    assert visibility.unset() == ("CUDA_VISIBLE_DEVICES",)
    assert visibility.worker_suffix() == "gpuall"


def test_cpu_only_hides_all_gpus_and_wins_over_a_specification() -> None:
    visibility = parse_visibility("0", True, {})
    assert visibility.environment() == {"NVIDIA_VISIBLE_DEVICES": "none", "CUDA_VISIBLE_DEVICES": "none", **ORDER}
    assert visibility.worker_suffix() == "cpu"


@pytest.mark.parametrize(
    ("env", "suffix"),
    [
        ({}, None),
        ({"NVIDIA_VISIBLE_DEVICES": ""}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "gpuall"),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-abc"}, "gpuGPU-abc"),
        ({"NVIDIA_VISIBLE_DEVICES": "0:1"}, "gpu0.1"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, "gpu2"),
        ({"NVIDIA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, "gpu1"),
    ],
)
def test_without_a_specification_the_inherited_variables_hold(env: dict[str, str], suffix: str | None) -> None:
    visibility = parse_visibility(None, False, env)
    assert visibility.environment() == ORDER
    assert visibility.worker_suffix() == suffix


@pytest.mark.parametrize("name", ["KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT"])
def test_specification_is_ignored_in_a_pod(name: str) -> None:
    assert parse_visibility("0", False, {name: "x"}).devices is None


@pytest.mark.parametrize(
    "spec", ["x", "0,", ",", "0;1", "-1", "3-1", "0:1:2", "all,0", "0,0", "1,0-2", "0,0:1", "GPU-", "0 1"]
)
def test_unreadable_specification_is_refused_with_exit_code_7(spec: str) -> None:
    with pytest.raises(GpuSpecError, match="--gpus") as raised:
        parse_visibility(spec, False, {})
    assert raised.value.exit_code == 7


def test_mig_instance_is_known_to_cuda_by_uuid() -> None:
    visibility, warning = check(parse_visibility("0:1", False, {}), TWO_GPUS)
    assert visibility.environment() == {"NVIDIA_VISIBLE_DEVICES": "0:1", "CUDA_VISIBLE_DEVICES": "MIG-one", **ORDER}
    assert visibility.worker_suffix() == "gpu0.1"
    assert warning == ""


@pytest.mark.parametrize("spec", ["0", "1", "0,1", "GPU-second", "MIG-one", "all", "none"])
def test_devices_that_are_there_pass(spec: str) -> None:
    asked = parse_visibility(spec, False, {})
    assert check(asked, TWO_GPUS) == (asked, "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("7", "this host has no GPU 7"),
        ("2", "GPU 2 does not answer .gone."),
        ("0:5", "GPU 0 has no MIG instance 5"),
        ("1:0", "GPU 1 has no MIG instance 0"),
        ("GPU-other", "this host has no GPU-other"),
    ],
)
def test_device_that_is_not_there_is_refused(spec: str, message: str) -> None:
    with pytest.raises(GpuSpecError, match=message):
        check(parse_visibility(spec, False, {}), TWO_GPUS)


@pytest.mark.parametrize(("inventory", "reason"), [(NONE, "no NVIDIA GPU"), (UNKNOWN, "driver not loaded")])
def test_what_cannot_be_checked_is_a_warning(inventory: object, reason: str) -> None:
    asked = parse_visibility("0,1", False, {})
    visibility, warning = check(asked, inventory)  # type: ignore[arg-type]
    assert visibility == asked
    assert reason in warning


def test_mig_instance_that_cannot_be_looked_up_is_refused() -> None:
    with pytest.raises(GpuSpecError, match="driver not loaded"):
        check(parse_visibility("0:1", False, {}), UNKNOWN)
