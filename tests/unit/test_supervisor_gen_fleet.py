"""A fleet in one call, and plans as tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from support.supervisor_gen import all_to_all, by_label, entry, gpu, host_of, sliced, topology

from agent.gpu.model import Inventory, NoGpus, Unknown
from supervisor_gen.fleet import plan_fleet
from supervisor_gen.model import AgentSettings, Limits
from supervisor_gen.plan import plan_host
from supervisor_gen.report import WIDTH, fleet_table, fleet_to_json, plan_table, plan_to_json

TRAINERS = topology(
    entry(1, name="quad", hosts=("@odd",), gpus=4, queues=("quad",)),
    entry(2, rest=True, queues=("train", "low")),
    entry(3, name="services", gpus=0, hosts=("host00",), queues=("services",)),
    groups={"odd": ("host?[13579]",)},
)
RICH = AgentSettings(
    queues=("train", "low"),
    order_fairness=True,
    services_mode=3,
    mode="docker",
    image="nvidia/cuda:12.4.1-base-ubuntu22.04",
    arguments=("--ipc=host", "-e", "TOKEN=hunter2", "--env=KEY=hunter2", "-e", "HOME"),
    uptime=("9-17 MON-FRI",),
    environment={"SECRET": "hunter2", "NCCL_DEBUG": "INFO"},
    limits=Limits(memory="64G"),
)


def fleet(number: int = 50) -> Iterator[tuple[str, Inventory]]:
    return ((f"host{index:02}", all_to_all()) for index in range(number))


def test_every_host_of_a_fleet_gets_the_plan_that_it_would_get_alone() -> None:
    found = plan_fleet(fleet(), TRAINERS)
    assert [plan.host for plan in found.plans] == [f"host{index:02}" for index in range(50)]
    assert all(plan == plan_host(plan.host, all_to_all(), TRAINERS) for plan in found.plans)
    assert by_label(found.plans[1]) == {"quad0": "0,1,2,3", "quad1": "4,5,6,7"}
    assert (found.errors, found.problems) == ({}, ())


def test_a_host_that_cannot_be_planned_does_not_stop_the_others() -> None:
    declared = topology(
        entry(1, models=("H100",), hosts=("a*", "c")), entry(2, name="pair", gpus=2, count=1, hosts=("a1", "c"))
    )
    hosts = [("a1", all_to_all(1)), ("b", all_to_all(1)), ("c", NoGpus()), ("a2", all_to_all(1))]
    found = plan_fleet(hosts, declared)
    assert [plan.host for plan in found.plans] == ["a2"]
    assert {host: len(problems) for host, problems in found.errors.items()} == {"a1": 1, "b": 1, "c": 2}
    assert found.errors["b"] == ("topology.conf: no entry is about the host b",)


def test_a_host_name_that_occurs_twice_is_an_error() -> None:
    found = plan_fleet([("a", all_to_all(1)), ("b", all_to_all(1)), ("a", all_to_all(2))], topology(entry()))
    assert [plan.host for plan in found.plans] == ["b"]
    assert found.errors == {"a": ("a: more than one host of the fleet has this name",)}


def test_entries_that_the_fleet_has_no_use_for_are_problems() -> None:
    declared = topology(
        entry(1),
        entry(2, hosts=("hsot*", "@none"), optional=True),
        entry(3, models=("H200",), optional=True),
        entry(4, models=("H100",), optional=True, rest=True),
        groups={"none": ("nowhere",)},
    )
    assert plan_fleet(fleet(2), declared).problems == (
        "topology.conf, line 2: no host of the fleet matches hsot* @none",
        "topology.conf, line 3: optional, and no host of the fleet has a GPU that it selects",
    )
    unknown = plan_fleet([*fleet(1), ("host98", Unknown("no driver"))], declared)
    assert len(unknown.problems) == 1


def test_json_has_every_setting_and_no_value_of_a_variable() -> None:
    declared = topology(entry(7, models=("H100",), settings=RICH))
    plan = plan_host("host", host_of(gpu(0), gpu(1, "Tesla T4")), declared)
    found = plan_to_json(plan)
    assert json.loads(json.dumps(found)) == found
    assert "hunter2" not in json.dumps(found)
    assert found["host"] == "host"
    assert found["idle"] == [
        {
            "uuid": "u1",
            "label": "1",
            "model": "Tesla T4",
            "memory_mib": 40960,
            "numa": 0,
            "cpus": "0-31",
            "nodes": ["/dev/nvidia2"],
        }
    ]
    agent = found["agents"][0]
    assert agent["declared"] == {"file": "topology.conf", "line": 7}
    assert agent["environment"] == ["NCCL_DEBUG", "SECRET"]
    assert agent["arguments"] == ["--ipc=host", "-e", "TOKEN=***", "--env=KEY=***", "-e", "HOME"]
    assert agent["limits"] == {"memory": "64G", "tasks": None, "cpu_weight": None, "cpus": ""}
    settings = set(AgentSettings.__dataclass_fields__)
    assert settings | {"name", "declared", "devices", "cpus"} == agent.keys()


def test_a_table_has_the_columns_in_which_something_is() -> None:
    declared = topology(
        entry(1, name="quad", gpus=4, queues=("quad",)),
        entry(2, mig=("*",), queues=("small",)),
        entry(3, name="services", gpus=0, settings=AgentSettings(queues=("services",), services_mode=-1)),
    )
    host = host_of(*(gpu(index) for index in range(5)), sliced(5, "1g.10gb"))
    assert plan_table(plan_host("gpu01", host, declared)).splitlines() == [
        "AGENT     GPUS  MODEL                       MEMORY      QUEUES    MODE           CPUS",
        "gpu5mig0  5:0   H100 80GB HBM3 MIG 1g.10gb  10 GiB      small     venv           32-63",
        "quad0     0-3   H100 80GB HBM3              4 x 80 GiB  quad      venv           0-31",
        "services                                                services  venv services",
        "warning: topology.conf, line 1: GPU 4 left over: quad takes 4 at a time",
        "3 agents on gpu01",
    ]


def test_a_table_fits_into_a_terminal_however_much_there_is_to_say() -> None:
    wide = replace(RICH, queues=tuple(f"a-queue-with-a-long-name-{number}" for number in range(9)))
    plan = plan_host("host", all_to_all(), topology(entry(settings=wide)))
    lines = plan_table(plan).splitlines()
    assert max(map(len, lines)) == WIDTH
    assert all("…" in line for line in lines[1:-1])
    assert lines[0].split() == ["AGENT", "GPUS", "MODEL", "MEMORY", "QUEUES", "MODE", "CPUS", "HOURS"]
    assert "hunter2" not in plan_table(plan)
    assert " docker services=3 fair nvidia/" in plan_table(
        plan_host("h", all_to_all(1), topology(entry(settings=RICH)))
    )


def test_the_table_of_a_fleet_names_hosts_and_ends_in_a_summary() -> None:
    hosts = [*fleet(1000), ("web", all_to_all(1)), ("host0x", Unknown("no driver"))]
    declared = topology(entry(1, hosts=("host*",)), entry(2, hosts=("hsot",)))
    found = plan_fleet(hosts, declared)
    lines = fleet_table(found).splitlines()
    assert lines[0].split() == ["HOST", "AGENT", "GPUS", "MODEL", "MEMORY", "MODE", "CPUS"]
    assert lines[1].split()[:3] == ["host00", "gpu0", "0"]
    assert lines[8001:] == [
        "host0x: warning: nobody can tell which GPUs there are, agents with GPUs stay as they are: no driver",
        "web: error: topology.conf: no entry is about the host web",
        "error: topology.conf, line 2: no host of the fleet matches hsot",
        "1,002 hosts, 8,000 agents, 1 host with errors, 1 problem of the topology",
    ]


def test_the_json_of_a_fleet_has_plans_and_errors_side_by_side() -> None:
    found = fleet_to_json(plan_fleet([*fleet(1), ("web", NoGpus())], topology(entry())))
    assert [host["host"] for host in found["hosts"]] == ["host00"]
    assert found["errors"] == {"web": ["topology.conf, line 1: no GPU of this host matches; it has none"]}
    assert found["problems"] == []
