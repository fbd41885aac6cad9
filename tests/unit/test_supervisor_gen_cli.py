"""The command line of `supervisor-gen`: what it prints, what it writes, and what it ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor_gen import state
from supervisor_gen.cli import main
from supervisor_gen.cli.group import group
from supervisor_gen.emitters.systemd import SHIPPED

ROOT = Path(__file__).parent.parent.parent
EIGHT = {"version": 1, "host": "gpu01", "gpus": [{"index": index} for index in range(8)]}
TOPOLOGY = "agents: [ { queues: [training] }, { name: services, gpus: 0, queues: [services] } ]\n"
NAMES = [*(f"gpu{index}" for index in range(8)), "services"]


class Host:
    """A root folder with a topology and an inventory."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        self.inventory = root / "inventory.json"
        self.describe(EIGHT)
        self.declare(TOPOLOGY)

    def describe(self, inventory: dict[str, Any]) -> None:
        self.inventory.write_text(json.dumps(inventory))

    def declare(self, topology: str) -> None:
        file = self.root / "etc/gpufleet/topology.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(topology)

    def call(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        code = main([*words, "--root", str(self.root), "--inventory", str(self.inventory)])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def files(self) -> dict[str, str]:
        below = (self.root / "etc/systemd", self.root / "etc/gpufleet/agents")
        found = (path for folder in below for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(self.root)): path.read_text() for path in found}


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def test_plan_shows_a_line_per_agent_and_json_the_whole(host: Host) -> None:
    code, out, _ = host.call("plan")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == NAMES
    _, out, _ = host.call("plan", "--json")
    found = json.loads(out)
    assert (found["host"], [agent["name"] for agent in found["agents"]]) == ("gpu01", NAMES)
    assert found["agents"][3]["devices"][0]["nodes"] == ["/dev/nvidia3"]


def test_emit_writes_the_same_bytes_each_time_and_the_same_to_standard_output(host: Host, tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        assert host.call("emit", "--output", str(tmp_path / name))[0] == 0
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        texts.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert texts[0] == texts[1]
    out = host.call("emit")[1]
    for path, text in texts[0].items():
        assert f"# /{path}\n{text.decode()}" in out
    assert len(texts[0]) == len(SHIPPED) + 1 + 3 * len(NAMES)


def test_apply_below_a_root_prepares_an_image(host: Host) -> None:
    code, out, _ = host.call("apply", "--json")
    assert (code, json.loads(out)["done"]) == (0, dict.fromkeys(NAMES, "start"))
    units = host.root / "etc/systemd/system"
    assert (units / "multi-user.target.wants/clearml-agents.target").is_symlink()
    assert (units / "clearml-agents.target.wants/clearml-agents-apply.service").is_symlink()
    wants = (units / "clearml-agents.target.d/agents.conf").read_text()
    assert [line for line in wants.splitlines() if line.startswith("Wants=")] == [
        f"Wants=clearml-agent@{name}.service" for name in NAMES
    ]
    assert set(state.names_of(host.root)) == set(NAMES)
    assert json.loads(state.inventory_file(host.root).read_text())["host"] == "gpu01"


def test_diff_ends_with_1_until_everything_is_applied(host: Host) -> None:
    code, out, err = host.call("diff")
    assert code == 1
    assert "+DeviceAllow=/dev/nvidia3 rw" in out
    assert "gpu3: start" in err
    host.call("apply")
    assert host.call("diff") == (0, "", "")


def test_a_second_apply_changes_no_file(host: Host) -> None:
    host.call("apply")
    before = {path: (host.root / path).stat().st_mtime_ns for path in host.files()}
    code, out, _ = host.call("apply", "--json")
    assert (code, set(json.loads(out)["done"].values())) == (0, {"unchanged"})
    assert {path: (host.root / path).stat().st_mtime_ns for path in host.files()} == before


def test_a_dry_run_shows_everything_and_does_nothing(host: Host) -> None:
    code, out, _ = host.call("apply", "--dry-run")
    assert code == 0
    assert "+DeviceAllow=/dev/nvidia0 rw" in out
    assert host.files() == {}
    assert not (host.root / state.FOLDER).exists()


def test_a_gpu_that_is_gone_takes_its_files_along_and_the_others_keep_names_and_files(host: Host) -> None:
    host.call("apply")
    before = host.files()
    left = [
        {"index": at, "minor": old, "uuid": f"GPU-00000000-0000-4000-8000-{old:012x}"}
        for at, old in enumerate([0, 1, 2, 4, 5, 6, 7])
    ]
    host.describe({**EIGHT, "gpus": left})
    code, out, _ = host.call("apply", "--json")
    done = json.loads(out)["done"]
    assert (code, {name for name, what in done.items() if what != "unchanged"}) == (0, {"gpu3"})
    after = host.files()
    gone = {path for path in before if "gpu3" in path}
    target = "etc/systemd/system/clearml-agents.target.d/agents.conf"
    assert before.keys() - after.keys() == gone
    assert {path for path in after if after[path] != before[path]} == {target}


def test_unknown_gpus_remove_nothing_and_end_with_9(host: Host) -> None:
    host.call("apply")
    before = host.files()
    host.describe({"version": 1, "host": "gpu01", "unknown": "Driver Not Loaded"})
    for command in (("apply",), ("apply", "--dry-run")):
        code, _, err = host.call(*command)
        assert code == 9
        assert "Driver Not Loaded" in err
    assert host.files() == before
    assert set(state.names_of(host.root)) == set(NAMES)
    assert json.loads(state.inventory_file(host.root).read_text())["gpus"]


def test_agents_without_gpus_are_applied_although_the_gpus_are_unknown(host: Host) -> None:
    host.call("apply")
    host.describe({"version": 1, "host": "gpu01", "unknown": "Driver Not Loaded"})
    host.declare(TOPOLOGY.replace("gpus: 0,", "gpus: 0, count: 2,"))
    code, out, _ = host.call("apply", "--json")
    done = json.loads(out)["done"]
    assert code == 9
    assert {name for name, what in done.items() if what == "unchanged"} == {f"gpu{index}" for index in range(8)}
    wants = (host.root / "etc/systemd/system/clearml-agents.target.d/agents.conf").read_text()
    assert "gpu7.service" in wants
    assert "services1.service" in wants


def test_a_foreign_file_in_the_way_is_named_and_nothing_is_written(host: Host) -> None:
    mine = host.root / "etc/systemd/system/clearml-agents-gpu2.slice"
    mine.parent.mkdir(parents=True)
    mine.write_text("[Slice]\n")
    code, _, err = host.call("apply")
    assert code == 3
    assert f"{mine} exists and was not made by supervisor-gen" in err
    assert host.files() == {"etc/systemd/system/clearml-agents-gpu2.slice": "[Slice]\n"}


@pytest.mark.parametrize(
    ("topology", "code", "said"),
    [
        ("agents: [\n  { queues: [ab] }\n]", 3, "topology.conf, line 2: queue 'ab'"),
        ("agents: [\n  { qeues: [training] }\n]", 3, "did you mean queues?"),
        ('agents: [\n  { queues: [training], uptime: "25 SUN" }\n]', 3, "line 2: uptime"),
        ("agents: [\n  { queues: [training], gpu { model: A100 } }\n]", 7, "topology.conf, line 2: "),
        ("agents: [\n  { queues: [training] }\n  { name: b, queues: [other] }\n]", 7, "topology.conf, line 3: "),
        ("agents: [\n  { name: quad, gpus: 4, count: 3, queues: [training] }\n]", 7, "topology.conf, line 2: "),
        ('agents: [\n  { hosts: ["other-*"], queues: [training] }\n]', 7, "gpu01"),
    ],
)
def test_a_topology_that_cannot_be_is_refused_with_file_and_line_and_nothing_is_written(
    host: Host, topology: str, code: int, said: str
) -> None:
    host.call("apply")
    before = host.files()
    host.declare(topology)
    for command in ("plan", "emit", "diff", "apply"):
        found, out, err = host.call(command)
        assert (found, out) == (code, "")
        assert said in err
    assert host.files() == before


def test_a_fleet_is_planned_from_a_folder_or_a_list(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "inventories"
    folder.mkdir()
    several = [{**EIGHT, "host": f"gpu{number:02}"} for number in range(3)]
    for one in several:
        (folder / f"{one['host']}.json").write_text(json.dumps(one))
    host.inventory = folder
    code, out, _ = host.call("plan", "--fleet")
    assert (code, out.splitlines()[-1]) == (0, "3 hosts, 27 agents")
    host.inventory = tmp_path / "all.json"
    host.inventory.write_text(json.dumps(several))
    assert json.loads(host.call("plan", "--fleet", "--json")[1])["hosts"][2]["host"] == "gpu02"
    assert host.call("plan")[0] == 3
    assert host.call("plan", "--host", "gpu01")[0] == 0


def test_a_fleet_with_a_host_that_does_not_fit_ends_with_7_and_plans_the_others(host: Host) -> None:
    host.inventory.write_text(json.dumps([EIGHT, {"version": 1, "host": "gpu02", "gpus": []}]))
    code, out, _ = host.call("plan", "--fleet")
    assert code == 7
    assert "gpu02" in out
    assert "gpu01" in out


def test_one_inventory_of_a_folder_that_cannot_be_read_costs_the_others_nothing(host: Host, tmp_path: Path) -> None:
    host.inventory = tmp_path / "inventories"
    host.inventory.mkdir()
    for name in ("gpu01", "gpu03"):
        (host.inventory / f"{name}.json").write_text(json.dumps({**EIGHT, "host": name}))
    (host.inventory / "gpu02.json").write_text("{")
    code, out, err = host.call("plan", "--fleet")
    assert (code, out.splitlines()[-1]) == (3, "2 hosts, 18 agents")
    assert "gpu02.json: not JSON" in err


@pytest.mark.parametrize("text", ["", "{", '{"gpus": [{"minor": "x"}]}', '{"gps": []}'])
def test_an_inventory_that_is_none_is_refused(host: Host, text: str) -> None:
    host.inventory.write_text(text)
    code, out, err = host.call("plan")
    assert (code, out) == (3, "")
    assert "inventory.json" in err


def test_an_inventory_can_be_fed_back(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inventory", "--json", "--inventory", str(host.inventory)]) == 0
    printed = capsys.readouterr().out
    plan = host.call("plan", "--json")[1]
    host.inventory.write_text(printed)
    assert host.call("plan", "--json")[1] == plan


def test_a_host_without_gpus_and_one_that_nobody_can_tell_are_two_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.gpu.inventory.library_is_present", lambda: False)
    monkeypatch.setattr("agent.gpu.inventory.nvidia_device_is_present", lambda *_: False)
    assert main(["inventory"]) == 0
    assert "has no NVIDIA GPU" in capsys.readouterr().out
    monkeypatch.setattr("agent.gpu.inventory.nvidia_device_is_present", lambda *_: True)
    assert main(["inventory"]) == 9
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["plam"], ["plan", "--no-such-option"], ["plan", "--fleet"], ["emit", "--format", "runit"]]
)
def test_a_wrong_command_line_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("supervisor-gen: ERROR: ")


def test_the_page_about_the_commands_knows_every_command_and_option() -> None:
    page = (ROOT / "docs/supervisor-gen.md").read_text()
    for name, command in group.commands.items():
        assert f"| `{name}` |" in page
        for option in (opt for param in command.params for opt in param.opts):
            assert option in page, f"{name} {option}"


def test_secrets_of_a_topology_are_in_no_output(host: Host) -> None:
    host.declare('agents: [ { queues: [training], environment { HF_TOKEN: "hf_secret" } } ]')
    for command in (("plan",), ("plan", "--json"), ("diff",), ("apply", "--dry-run"), ("apply", "--json")):
        _, out, err = host.call(*command)
        assert "hf_secret" not in out + err
    file = host.root / "etc/gpufleet/agents/gpu0.env"
    assert "HF_TOKEN=hf_secret" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
