"""Planning a host: who gets which GPU, what is refused, what a person is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from support.supervisor_gen import (
    A100,
    H100,
    all_to_all,
    by_label,
    entry,
    gpu,
    host_of,
    instance,
    names_in,
    renumbered,
    sliced,
    topology,
    without,
)

from agent.errors import GpuSpecError
from agent.gpu.model import Inventory, NoGpus, Unknown
from supervisor_gen.model import Entry, HostPlan
from supervisor_gen.plan import plan_host

MIXED = host_of(*(gpu(index, H100) for index in range(4)), *(gpu(index, A100) for index in range(4, 8)))


def plan(inventory: Inventory, *entries: Entry, previous: Mapping[str, tuple[str, ...]] | None = None) -> HostPlan:
    return plan_host("gpu01.example.org", inventory, topology(*entries), previous=previous or {})


def refusal(inventory: Inventory, *entries: Entry) -> list[str]:
    with pytest.raises(GpuSpecError) as caught:
        plan(inventory, *entries)
    return caught.value.message.splitlines()


def test_an_entry_without_a_name_makes_an_agent_per_gpu_in_natural_order() -> None:
    found = plan(all_to_all(12), entry(queues=("train", "low")))
    assert by_label(found) == {f"gpu{index}": str(index) for index in range(12)}
    assert [agent.name for agent in found.agents][-3:] == ["gpu9", "gpu10", "gpu11"]
    assert found.agents[3].settings.queues == ("train", "low")
    device = found.agents[3].devices[0]
    assert (device.uuid, device.nodes, device.numa, device.cpus) == ("u3", ("/dev/nvidia4",), 0, "0-31")
    assert (found.warnings, found.idle) == ((), ())


def test_entries_share_a_host_out_in_file_order() -> None:
    found = plan(
        all_to_all(),
        entry(1, name="quad", gpus=4, count=1),
        entry(2, name="train", count=2),
        entry(3, name="any", rest=True, gpus=-1),
        entry(4, name="services", gpus=0, count=2),
        entry(5, name="cpu", gpus=0),
    )
    expected = {
        "any": "6,7",
        "cpu": "",
        "quad": "0,1,2,3",
        "services0": "",
        "services1": "",
        "train4": "4",
        "train5": "5",
    }
    assert by_label(found) == expected


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ({"models": ("h100",)}, ["0", "1", "2", "3"]),
        ({"models": ("nvidia a100*40gb",)}, ["4", "5", "6", "7"]),
        ({"models": ("a100*",), "optional": True}, []),
        ({"least_memory_mib": 50_000}, ["0", "1", "2", "3"]),
        ({"indexes": (2, 5)}, ["2", "5"]),
        ({"indexes": (2, 5), "models": ("A100",)}, ["5"]),
    ],
)
def test_selectors_pick_gpus(selector: dict[str, object], labels: list[str]) -> None:
    found = plan(MIXED, entry(**selector))
    assert list(by_label(found).values()) == labels
    assert len(found.idle) == 8 - len(labels)


def test_a_mig_instance_is_selected_by_profile_and_comes_with_its_nodes() -> None:
    host = host_of(gpu(0), sliced(1, "1g.10gb", "3g.40gb"), sliced(2))
    found = plan(host, entry(1, mig=("1g.*",)), entry(2))
    assert by_label(found) == {"gpu0": "0", "gpu1mig0": "1:0"}
    device = found.agents[1].devices[0]
    assert device.uuid == "MIG-1-0"
    assert device.model == f"{H100} MIG 1g.10gb"
    assert device.memory_mib == 9856
    assert device.nodes == ("/dev/nvidia2", "/dev/nvidia-caps/nvidia-cap20")
    assert device.cpus == "0-31"
    assert found.warnings == (
        "MIG instance 1:1 idle: no entry takes it",
        "GPU 2 idle: in MIG mode, and without an instance",
    )


def test_a_mig_instance_without_known_nodes_gets_a_warning() -> None:
    nodeless = tuple(instance(0, number, nodes=()) for number in range(2))
    found = plan(host_of(sliced(0, mig=nodeless)), entry(name="small", mig=("1g.10gb",)))
    assert [*by_label(found)] == ["small0mig0", "small0mig1"]
    assert found.warnings == (
        "MIG instances 0:0 and 0:1 without known device nodes: "
        "agents small0mig0 and small0mig1 cannot be fenced from the other instances of GPU 0",
    )


def test_a_remainder_is_idle_and_goes_to_whoever_takes_the_rest() -> None:
    quad = entry(3, name="quad", gpus=4)
    alone = plan(all_to_all(6), quad)
    assert by_label(alone) == {"quad0": "0,1,2,3"}
    assert [device.label for device in alone.idle] == ["4", "5"]
    assert alone.warnings == ("topology.conf, line 3: GPUs 4 and 5 left over: quad takes 4 at a time",)
    shared = plan(all_to_all(6), quad, entry(4, rest=True))
    assert by_label(shared) == {"gpu4": "4", "gpu5": "5", "quad0": "0,1,2,3"}
    assert (shared.idle, shared.warnings) == ((), ())


def test_gpus_that_no_entry_selects_are_idle_and_no_error() -> None:
    found = plan(MIXED, entry(models=("H100",)))
    assert [device.label for device in found.idle] == ["4", "5", "6", "7"]
    assert found.warnings == ("GPUs 4, 5, 6 and 7 idle: no entry takes them",)


def test_an_empty_list_of_agents_is_a_plan() -> None:
    found = plan(all_to_all(2))
    assert (found.agents, found.warnings, len(found.idle)) == ((), (), 2)


@pytest.mark.parametrize(
    ("host", "patterns", "is_about"),
    [
        ("gpu01.example.org", ("gpu??",), True),
        ("gpu01.example.org", ("gpu01.*.org",), True),
        ("gpu01.example.org", ("gpu01",), True),
        ("gpu01.example.org", ("GPU01", "gpu01?"), False),
        ("gpu01", ("web", "@trainers"), True),
        ("dgx-7", ("@trainers",), True),
        ("gpu10", ("@trainers", "gpu[2-9]?"), False),
    ],
)
def test_an_entry_is_about_the_hosts_that_its_patterns_match(
    host: str, patterns: tuple[str, ...], is_about: bool
) -> None:
    declared = topology(entry(hosts=patterns), groups={"trainers": ("gpu0?", "dgx-*")})
    if is_about:
        assert [*by_label(plan_host(host, all_to_all(1), declared))] == ["gpu0"]
    else:
        with pytest.raises(GpuSpecError, match=f"^topology.conf: no entry is about the host {host}$"):
            plan_host(host, all_to_all(1), declared)


def test_every_problem_of_a_host_is_reported_with_its_line() -> None:
    found = refusal(
        MIXED,
        entry(1, indexes=(0, 1)),
        entry(2, models=("H100",)),
        entry(3, name="quad", gpus=4, count=2, models=("A100",)),
        entry(4, models=("H200", "B*"), least_memory_mib=90_000),
        entry(5, indexes=(7, 9, 10)),
        entry(6, mig=("1g.10gb",)),
        entry(7, name="one", gpus=0),
        entry(8, name="one", gpus=0, count=1),
        entry(9, name="x" * 48, count=2, models=("A100",)),
    )
    there = f"it has 4 x {A100}, 4 x {H100}"
    shape = "has to be 1 to 48 lower-case letters, digits, dots and underscores and to begin with a letter"
    assert found == [
        "topology.conf, line 2: GPUs 0 and 1 asked for twice, first by topology.conf, line 1",
        "topology.conf, line 3: more GPUs than there are: 2 x 4 wanted, 4 selected, 4 of them free",
        f"topology.conf, line 4: no GPU of this host matches model H200 or B* at least MiB 90000; {there}",
        "topology.conf, line 5: GPUs 9 and 10 not on this host",
        f"topology.conf, line 6: no GPU of this host matches mig 1g.10gb; {there}",
        "topology.conf, line 8: one is also the name of topology.conf, line 7",
        f"topology.conf, line 9: {'x' * 48}4 is no name for an agent: it {shape}",
        f"topology.conf, line 9: {'x' * 48}5 is no name for an agent: it {shape}",
    ]


def test_indexes_that_cannot_be_had_are_named_with_the_reason() -> None:
    host = host_of(gpu(0), gpu(1), sliced(2, "1g.10gb"))
    assert refusal(
        host, entry(1, indexes=(0,)), entry(2, indexes=(0, 1, 2, 3)), entry(3, mig=("*",), indexes=(1, 2))
    ) == [
        "topology.conf, line 2: GPU 3 not on this host",
        "topology.conf, line 2: GPU 2 in MIG mode; `gpu.mig` selects its instances",
        "topology.conf, line 2: GPU 0 asked for twice, first by topology.conf, line 1",
        "topology.conf, line 3: GPU 1 not in MIG mode",
    ]


@pytest.mark.parametrize(
    ("gpus", "second", "labels"),
    [
        (4, entry(2), None),
        (4, entry(2, name="all", gpus=-1), None),
        (4, entry(2, indexes=(1,), count=1), None),
        (4, entry(2, count=3), None),
        (3, entry(2, name="pair", gpus=2, count=1), None),
        (4, entry(2, count=2), ["2", "3"]),
        (4, entry(2, rest=True), ["2", "3"]),
        (4, entry(2, rest=True, indexes=(1, 2, 9)), ["2"]),
        (4, entry(2, rest=True, count=9), ["2", "3"]),
        (4, entry(2, rest=True, gpus=-1, name="any"), ["2,3"]),
        (2, entry(2, rest=True, gpus=-1, name="any"), []),
        (2, entry(2, models=("V100",), count=3, optional=True), []),
        (3, entry(2, name="pair", gpus=2, rest=True), []),
    ],
)
def test_what_is_left_after_an_entry_that_took_two_gpus(gpus: int, second: Entry, labels: list[str] | None) -> None:
    first = entry(1, name="first", count=2)
    if labels is None:
        assert [line[:23] for line in refusal(all_to_all(gpus), first, second)] == ["topology.conf, line 2: "]
        return
    found = by_label(plan(all_to_all(gpus), first, second))
    assert (found.pop("first0"), found.pop("first1")) == ("0", "1")
    assert [*found.values()] == labels


def test_a_host_without_gpus_is_refused_what_it_has_not() -> None:
    entries = (entry(1, name="cpu", gpus=0), entry(2, rest=True), entry(3, optional=True, models=("H100",)))
    assert by_label(plan(NoGpus(), *entries)) == {"cpu": ""}
    assert refusal(NoGpus(), *entries, entry(4)) == ["topology.conf, line 4: no GPU of this host matches; it has none"]


def test_a_host_whose_gpus_nobody_can_tell_gets_its_cpu_agents_only() -> None:
    found = plan(Unknown("the driver is not loaded"), entry(1, name="cpu", gpus=0), entry(2), entry(3, indexes=(99,)))
    assert by_label(found) == {"cpu": ""}
    assert (found.unknown, found.idle, found.warnings) == ("the driver is not loaded", (), ())


# Lost GPUs


def test_a_lost_gpu_takes_its_own_agent_with_it_and_no_other() -> None:
    found = plan(without(all_to_all(4), 1), entry())
    assert by_label(found) == {"gpu0": "0", "gpu2": "2", "gpu3": "3"}
    assert found.warnings == ("GPU 1 does not answer (Unknown Error): no agent gpu1",)


def test_a_group_with_a_lost_gpu_is_dropped_and_its_other_gpus_go_to_nobody() -> None:
    found = plan(without(all_to_all(), 1), entry(1, name="quad", gpus=4), entry(2, rest=True))
    assert by_label(found) == {"quad1": "4,5,6,7"}
    assert [device.label for device in found.idle] == ["0", "2", "3"]
    assert found.warnings == ("GPU 1 does not answer (Unknown Error): no agent quad0, and GPUs 0, 2 and 3 idle",)


def test_an_agent_of_all_gpus_does_without_a_lost_one() -> None:
    found = plan(without(all_to_all(4), 1), entry(name="any", gpus=-1))
    assert by_label(found) == {"any": "0,2,3"}
    assert found.warnings == ("GPU 1 does not answer (Unknown Error): agent any does without it",)


@pytest.mark.parametrize(
    "entries",
    [
        (entry(1, indexes=(1,)),),
        (entry(1, name="train", count=4),),
        (entry(1, name="quad", gpus=4, count=1),),
        (entry(1), entry(2, models=("A100",), indexes=(1,))),
        (entry(1, models=("A100",)),),
        (entry(1, mig=("1g.10gb",), count=7),),
    ],
)
def test_nothing_is_refused_because_a_gpu_is_lost(entries: tuple[Entry, ...]) -> None:
    found = plan(without(all_to_all(4), 1), *entries)
    assert found.warnings[0].startswith("GPU 1 does not answer (Unknown Error)")
    assert "u1" not in {device.uuid for agent in found.agents for device in agent.devices}


def test_a_host_whose_gpus_are_all_lost_keeps_its_cpu_agents() -> None:
    found = plan(host_of(lost={0: "gone", 1: "gone"}), entry(1, models=("H100",)), entry(2, name="cpu", gpus=0))
    assert by_label(found) == {"cpu": ""}
    assert found.warnings == (
        "GPU 0 does not answer (gone): no agent gpu0",
        "GPU 1 does not answer (gone): no agent gpu1",
    )


def test_a_lost_gpu_is_taken_for_one_like_its_neighbours() -> None:
    entries = (entry(1, name="quad", gpus=4, models=("A100",)), entry(2, models=("H100",)))
    boundary = plan(without(MIXED, 3), *entries)
    assert by_label(boundary) == {"gpu0": "0", "gpu1": "1", "gpu2": "2", "quad0": "4,5,6,7"}
    assert boundary.warnings == ("GPU 3 does not answer (Unknown Error): no agent gpu3",)
    inside = plan(without(MIXED, 5), *entries)
    assert by_label(inside) == {"gpu0": "0", "gpu1": "1", "gpu2": "2", "gpu3": "3"}


def test_a_gpu_in_mig_mode_that_is_lost_takes_its_instances_agents_with_it() -> None:
    found = plan(host_of(sliced(0, "1g.10gb"), lost={1: "gone"}), entry(mig=("1g.10gb",)))
    assert by_label(found) == {"gpu0mig0": "0:0"}
    assert found.warnings == ("GPU 1 does not answer (gone): no agents for its MIG instances",)


# Names and the plan before


def test_names_stay_when_a_gpu_goes_and_the_driver_renumbers() -> None:
    before = names_in(plan(all_to_all(), entry()))
    after = plan(renumbered(all_to_all(), gone=["u3"]), entry(), previous=before)
    assert names_in(after) == {name: uuids for name, uuids in before.items() if name != "gpu3"}
    assert by_label(after)["gpu4"] == "3"


def test_a_new_gpu_gets_its_own_index_or_the_lowest_free_number() -> None:
    host = renumbered(all_to_all(4), gone=["u1"], added=[gpu(8)])
    before = {"gpu0": ("u0",), "gpu2": ("u2",), "gpu3": ("u3",)}
    assert names_in(plan(host, entry(), previous=before)) == {**before, "gpu1": ("u8",)}
    larger = renumbered(host, added=[gpu(9)])
    assert names_in(plan(larger, entry(), previous=before)) == {**before, "gpu1": ("u8",), "gpu4": ("u9",)}


def test_a_group_stays_together_even_if_another_would_be_closer() -> None:
    before = {"pair0": ("u7", "u0"), "pair2": ("u3", "u4")}
    found = plan(all_to_all(), entry(name="pair", gpus=2), previous=before)
    assert names_in(found) == {**before, "pair1": ("u1", "u2"), "pair3": ("u5", "u6")}


def test_a_group_that_lost_a_member_to_another_entry_is_formed_anew() -> None:
    before = {"quad0": ("u0", "u1", "u2", "u3"), "quad1": ("u4", "u5", "u6", "u7")}
    found = plan(
        all_to_all(), entry(1, name="one", indexes=(0,)), entry(2, rest=True, name="quad", gpus=4), previous=before
    )
    assert names_in(found) == {"one0": ("u0",), "quad1": ("u4", "u5", "u6", "u7")}


def test_a_number_of_agents_stays_with_its_gpus_and_takes_idle_ones_before_those_of_others() -> None:
    entries = (entry(1, name="train", count=2), entry(2, name="quick", count=2))
    before = names_in(plan(all_to_all(5), *entries))
    assert before == {"quick2": ("u2",), "quick3": ("u3",), "train0": ("u0",), "train1": ("u1",)}
    grown = renumbered(all_to_all(5), added=[gpu(9)], first=True)
    assert names_in(plan(grown, *entries, previous=before)) == before
    shrunk = renumbered(all_to_all(5), gone=["u0"])
    assert names_in(plan(shrunk, *entries, previous=before)) == {
        **{name: uuids for name, uuids in before.items() if name != "train0"},
        "train3": ("u4",),
    }


def test_a_name_that_another_declaration_bears_is_not_taken() -> None:
    found = plan(all_to_all(2), entry(1), entry(2, name="gpu0", gpus=0), previous={"gpu0": ("u1",)})
    assert names_in(found) == {"gpu0": (), "gpu1": ("u1",), "gpu2": ("u0",)}


def test_mig_instances_keep_their_names_when_their_gpu_is_renumbered() -> None:
    entries = (entry(1, mig=("*",)), entry(2, rest=True))
    before = names_in(plan(host_of(gpu(0), sliced(1, "1g.10gb", "1g.10gb")), *entries))
    assert before == {"gpu0": ("u0",), "gpu1mig0": ("MIG-1-0",), "gpu1mig1": ("MIG-1-1",)}
    after = plan(
        host_of(sliced(0, "1g.10gb", "1g.10gb", mig=sliced(1, "1g.10gb", "1g.10gb").mig)), *entries, previous=before
    )
    assert names_in(after) == {"gpu1mig0": ("MIG-1-0",), "gpu1mig1": ("MIG-1-1",)}
