"""A topology file: what it may say, and how every mistake is named with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError
from supervisor_gen.model import AgentSettings, Entry, Limits, Selector, Topology
from supervisor_gen.topology import LIMITS, PLACING, SELECTOR, SETTINGS, read_topology, topology_from

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = re.findall(r"^```hocon\n(.*?)^```$", (ROOT / "docs/topology.md").read_text(), re.MULTILINE | re.DOTALL)


def read(text: str) -> Topology:
    return topology_from(text, file="topology.conf")


def one(text: str) -> Entry:
    return read(f"agents: [ {{ {text} }} ]").entries[0]


def settings(text: str) -> AgentSettings:
    return one(f"name: a, gpus: 0, queues: [train], {text}").settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.exit_code == 3
    return caught.value.message.splitlines()


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_documentation_are_read(text: str) -> None:
    assert read(text).entries


def test_documentation_has_its_examples() -> None:
    assert len(EXAMPLES) == 3


def test_documentation_knows_every_key() -> None:
    page = (ROOT / "docs/topology.md").read_text()
    keys = [
        *PLACING,
        *(f"gpu.{key}" for key in SELECTOR),
        *SETTINGS,
        *(f"limits.{key}" for key in LIMITS),
        "environment",
    ]
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_json_is_read_too() -> None:
    entry = read(json.dumps({"agents": [{"queues": ["training"], "gpu": {"model": "H100"}}]})).entries[0]
    assert entry.selector == Selector(models=("H100",))


def test_defaults_lie_under_every_entry_and_are_merged_with_its_sections() -> None:
    found = read("""
        defaults { queues: [low], limits { memory: 64G, tasks: 100 }, environment { A: 1, B: 2 } }
        agents: [ {}, { queues: [train], limits { tasks: 200 }, environment { B: 3 } } ]
    """).entries
    assert [entry.settings.queues for entry in found] == [("low",), ("train",)]
    assert found[1].settings.limits == Limits(memory="64G", tasks=200)
    assert found[1].settings.environment == {"A": "1", "B": "3"}


@pytest.mark.parametrize("general", ["uptime", "downtime"])
@pytest.mark.parametrize("own", ["uptime", "downtime"])
def test_an_entry_with_hours_has_none_of_the_defaults(general: str, own: str) -> None:
    [with_hours, without] = read(f"""
        defaults {{ queues: [low], {general}: "20-23 SUN" }}
        agents: [ {{ {own}: "10 MON" }}, {{ name: other }} ]
    """).entries
    for key in ("uptime", "downtime"):
        assert getattr(with_hours.settings, key) == (("10 MON",) if key == own else ())
        assert getattr(without.settings, key) == (("20-23 SUN",) if key == general else ())


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("model: H100", Selector(models=("H100",))),
        ('model: ["*A100*", H200]', Selector(models=("*A100*", "H200"))),
        ("index: 3", Selector(indexes=(3,))),
        ("index: [0, 1]", Selector(indexes=(0, 1))),
        ('index: "0-3,6"', Selector(indexes=(0, 1, 2, 3, 6))),
        ('mig: "1g.*"', Selector(mig=("1g.*",))),
        ('memory: ">=40GB"', Selector(least_memory_mib=38146)),
        ('memory: "<=24 GiB"', Selector(most_memory_mib=24576)),
        ('memory: "40-80 GiB"', Selector(least_memory_mib=40960, most_memory_mib=81920)),
    ],
)
def test_gpus_are_selected_by(text: str, selector: Selector) -> None:
    assert one(f"queues: [train], gpu {{ {text} }}").selector == selector


@pytest.mark.parametrize(("sold_as", "mib"), [("80GB", 81559), ("40GB", 40960), ("24GB", 24564), ("141GB", 143771)])
def test_a_bare_size_is_what_a_card_is_sold_as(sold_as: str, mib: int) -> None:
    found = one(f'queues: [train], gpu {{ memory: "{sold_as}" }}').selector
    assert found.least_memory_mib is not None
    assert found.most_memory_mib is not None
    assert found.least_memory_mib <= mib <= found.most_memory_mib


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("services_mode: true", {"services_mode": -1}),
        ("services_mode: 20", {"services_mode": 20}),
        ("services_mode: false", {}),
        (
            'mode: docker, image: "a:1", arguments: "-e \'A=b c\'"',
            {"mode": "docker", "image": "a:1", "arguments": ("-e", "A=b c")},
        ),
        ('uptime: "20-23 SUN"', {"uptime": ("20-23 SUN",)}),
        ('limits { memory: "50%", cpus: "0-3,8" }', {"limits": Limits(memory="50%", cpus="0-3,8")}),
        ("limits { memory: 64GiB }", {"limits": Limits(memory="64G")}),
        ("user: builder, config_file: /etc/other.conf", {"user": "builder", "config_file": "/etc/other.conf"}),
        ('options: ["--log-level", debug]', {"options": ("--log-level", "debug")}),
        ("environment { A: true, B: 1.5 }", {"environment": {"A": "true", "B": "1.5"}}),
    ],
)
def test_settings_are_read(text: str, changes: dict[str, Any]) -> None:
    assert settings(text) == AgentSettings(queues=("train",), **changes)


def test_all_problems_of_a_file_are_told_in_the_order_of_its_lines() -> None:
    found = problems("""\
agents: [
  { qeues: [train], gpu { modle: H100 } }
  {
    queues: [train]
    uptime: "20-23 XYZ"
  }
]
topology: 1
""")
    assert [line.partition(":")[0] for line in found] == [
        *(["topology.conf, line 2"] * 2),
        "topology.conf, line 5",
        "topology.conf, line 8",
    ]
    assert any("there is no key qeues; did you mean queues?" in line for line in found)
    assert any("there is no key modle; did you mean model?" in line for line in found)
    assert "'20-23 XYZ', character 7: expected a day" in found[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queues: []", "at least one queue"),
        ("queues: [ab]", "fewer than 3 characters"),
        ('queues: ["  "]', "fewer than 3 characters"),
        ('queues: [" train"]', "begin or end with a blank"),
        ('queues: ["-train"]', "may not begin with a dash"),
        ('queues: ["a\\nb"]', "control characters"),
        ("queues: [train, Train]", "named 2 times"),
        ('queues: [train], uptime: "20-23 SUN", downtime: "10 MON"', "uptime and downtime are both given"),
        ("queues: [train], gpus: 4", "name: needed"),
        ("queues: [train], gpus: -1", "gpus is -1, expected"),
        ("queues: [train], name: a, gpus: 0, gpu { model: H100 }", "says nothing about an agent without GPUs"),
        ("queues: [train], name: a, gpus: all, count: 2", "makes one agent"),
        ("queues: [train], count: 0", "from 1 to 1,000"),
        ("queues: [train], count: 1000000000", "from 1 to 1,000"),
        ('queues: ["train=2"]', "needs dynamic_gpus: true"),
        ('queues: ["train=4"], dynamic_gpus: true, name: a, gpus: 2', "a task needs 4 GPUs, and an agent has 2"),
        ('queues: [train], options: "extra"', "'extra' is no option"),
        ('queues: [train], options: "--config-file=/x"', "written as the key config_file"),
        ("queues: [train], environment { CLEARML_WORKER_ID: x }", "sets this variable itself"),
        ("queues: [train], name: a-b", "no dash"),
        ('queues: [train], hosts: ["@nobody"]', "there is no group nobody"),
        ("queues: [train], image: debian", "image belongs to mode: docker"),
        ("queues: [train], mode: vm", "expected venv or docker or podman"),
        ("queues: [train], user: root", "another user than root"),
        ("queues: [train], config_file: relative.conf", "a path that begins with /"),
        ("queues: [train], limits { memory: lots }", "limits.memory is 'lots', expected a size"),
        ("queues: [train], limits { cpu_weight: 20000 }", "from 1 to 10,000"),
        ("queues: [train], limits { cpus: 3-1 }", "expected CPUs"),
        ("queues: [train], limits: 3", "limits: expected a section"),
        ("queues: [train], environment { CUDA_VISIBLE_DEVICES: 0 }", "sets this variable itself"),
        ('queues: [train], environment { "A B": 0 }', "not a name that a variable can have"),
        ('queues: [train], options: ["--gpus", "0"]', "--gpus is written as the key gpu and gpus"),
        ('queues: [train], options: ["--detached"]', "for the supervisor to say"),
        ('queues: [train], options: ["--git-pass=x"]', "would be seen by every user"),
        ("queues: [train], dynamic_gpus: true", "expected NAME=N or NAME=MIN-MAX"),
        ('queues: ["train=4-2"], dynamic_gpus: true', "the smaller number comes first"),
        ('queues: ["train=0.5"], dynamic_gpus: true', "fractions"),
        ('queues: ["train=0"], dynamic_gpus: true', "at least 1 GPU"),
        ('queues: ["train=2"], dynamic_gpus: true, services_mode: true', "exclude each other"),
        ("queues: [train], services_mode: true", "for agents without GPUs"),
        ('queues: ["train=2"], dynamic_gpus: true, gpus: 0, name: a', "dynamic_gpus needs GPUs"),
        ('queues: [train], gpu { memory: "80 bananas" }', "gpu.memory is '80 bananas', expected a size"),
        ('queues: [train], gpu { index: "3-1" }', "expected GPU indexes"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    found = problems(f"agents: [\n\n  {{ {text} }}\n]")
    assert any(said in line and line.startswith("topology.conf, line 3: ") for line in found), found


def test_a_group_within_a_group_is_refused() -> None:
    found = problems('groups { a: [x], b: ["@a"] }\nagents: []')
    assert "a group has no groups in it" in found[0]


def test_a_mistake_in_defaults_is_told_once_and_where_it_is() -> None:
    found = problems("defaults {\n  limits { memory: x }\n}\nagents: [\n { queues: [train] }\n { queues: [low] }\n]")
    assert len(found) == 1
    assert found[0].startswith("topology.conf, line 2: limits.memory")


def test_the_value_of_a_variable_is_never_shown() -> None:
    found = problems('agents: [ { queues: [train], environment { TOKEN: ["hf_secret"] } } ]')
    assert "environment.TOKEN: expected" in found[0]
    assert "hf_secret" not in found[0]


@pytest.mark.parametrize(
    "text", ["", "agents: 3", "agents: { a: 1 }", "defaults: 3\nagents: []", "groups: 3\nagents: []"]
)
def test_a_file_of_another_shape_is_refused(text: str) -> None:
    assert problems(text)


def test_an_empty_list_of_agents_is_an_answer() -> None:
    assert read("agents: []").entries == ()


def test_what_is_no_hocon_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "topology.conf"
    file.write_text("agents: [\n  { queues: [train }\n]\n")
    with pytest.raises(ConfigError, match=r"topology\.conf, line \d"):
        read_topology(str(file))


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        read_topology(str(tmp_path / "topology.conf"))
    assert "--topology" in caught.value.hint


@pytest.mark.parametrize("statement", ['include "more.conf"', 'include required(file("more.conf"))'])
def test_an_included_file_is_read_and_missed_where_it_is_not_there(tmp_path: Path, statement: str) -> None:
    file = tmp_path / "topology.conf"
    file.write_text(f"# agents of this site\n{statement}\ndefaults {{ user: site }}\n")
    with pytest.raises(ConfigError, match=r"topology\.conf, line 2: cannot include more\.conf: no such file"):
        read_topology(str(file))
    (tmp_path / "more.conf").write_text("agents: [{ queues: [train] }]")
    assert [entry.settings.user for entry in read_topology(str(file)).entries] == ["site"]


def test_the_place_of_a_key_is_kept_for_later_errors() -> None:
    entry = read("agents: [\n  {\n    queues: [train]\n    gpu {\n      index: 3\n    }\n  }\n]").entries[0]
    assert str(entry.place_of("gpu.index")) == "topology.conf, line 5"
    assert str(entry.place_of("count")) == str(entry.place)
