"""Inventory and topology in, exact files out: the directories below tests/golden/supervisor_gen.

A case has `inventory.json`, `topology.conf`, perhaps `previous.json` (the GPUs of the agents before), and what is to
come out: `systemd/` and `supervisord/` with the files of that host (those that are shipped as they are, the same
everywhere, are left out) and `plan.txt`. `--update-golden` writes them anew; then read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.gpu.wire import hosts_from_json
from supervisor_gen.emitters import EMITTERS
from supervisor_gen.emitters.systemd import SHIPPED
from supervisor_gen.model import Files, HostPlan, Site
from supervisor_gen.plan import plan_host
from supervisor_gen.report import plan_table
from supervisor_gen.topology import read_topology

GOLDEN = Path(__file__).parent.parent / "golden/supervisor_gen"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def planned(case: str) -> HostPlan:
    folder = GOLDEN / case
    described = next(iter(hosts_from_json(json.loads((folder / "inventory.json").read_text()), source=case)))
    previous = folder / "previous.json"
    names = json.loads(previous.read_text()) if previous.exists() else {}
    before = {name: tuple(uuids) for name, uuids in names.items()}
    return plan_host(described.host, described.inventory, read_topology(str(folder / "topology.conf")), previous=before)


def made(case: str, format_: str) -> Files:
    files = EMITTERS[format_].files_for(planned(case), Site(version="0.0.0"))
    return {path: file for path, file in files.items() if path not in SHIPPED.values()}


def golden_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_golden(folder: Path, texts: dict[str, str]) -> None:
    for path in golden_files(folder):
        (folder / path).unlink()
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


@pytest.mark.parametrize("format_", sorted(EMITTERS))
@pytest.mark.parametrize("case", CASES)
def test_the_same_inputs_give_these_very_files(case: str, format_: str, request: pytest.FixtureRequest) -> None:
    texts = {path: file.text for path, file in made(case, format_).items()}
    folder = GOLDEN / case / format_
    if request.config.getoption("update_golden"):
        write_golden(folder, texts)
    assert texts == golden_files(folder)


@pytest.mark.parametrize("case", CASES)
def test_the_plan_reads_like_this(case: str, request: pytest.FixtureRequest) -> None:
    text = plan_table(planned(case)) + "\n"
    file = GOLDEN / case / "plan.txt"
    if request.config.getoption("update_golden"):
        file.write_text(text)
    assert text == file.read_text()
    assert max(len(line) for line in text.splitlines() if not line.startswith("warning")) <= 120


def test_every_case_of_a_host_has_golden_files() -> None:
    assert set(CASES) >= {
        *("one-gpu", "eight-gpus", "mixed-models", "mig", "groups-of-four", "dynamic", "no-gpu", "driver-missing"),
        *("lost-gpu", "cpu-services", "gpu-removed"),
    }


def test_a_gpu_that_was_taken_out_takes_only_its_own_agent_along() -> None:
    seven = {agent.name: agent.devices[0].uuid for agent in planned("gpu-removed").agents}
    before = json.loads((GOLDEN / "gpu-removed/previous.json").read_text())
    assert seven == {name: uuids[0] for name, uuids in before.items() if name != "gpu3"}
