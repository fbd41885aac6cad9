"""What stays as it is while GPUs come and go, whatever the topology: properties of plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from support.supervisor_gen import A100, H100, entry, gpu, names_in, topology

from agent.errors import GpuSpecError
from agent.gpu.model import Gpu, Gpus, Link, LostGpu
from supervisor_gen.model import Entry, HostPlan, Topology
from supervisor_gen.plan import plan_host

Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Host:
    """GPUs by their UUIDs, in the driver's order; those in `lost` do not answer."""

    order: tuple[int, ...]
    lost: frozenset[int]
    close: frozenset[frozenset[int]]

    def inventory(self) -> Gpus:
        numbered = list(enumerate(self.order))
        return Gpus(
            gpus=tuple(self._gpu(index, number) for index, number in numbered if number not in self.lost),
            lost=tuple(LostGpu(index=index, reason="gone") for index, number in numbered if number in self.lost),
        )

    def _gpu(self, index: int, number: int) -> Gpu:
        others = [other for other in self.order if other != number and other not in self.lost]
        links = {
            f"u{other}": Link.NVLINK if frozenset({number, other}) in self.close else Link.NODE for other in others
        }
        return gpu(index, H100 if number % 3 else A100, uuid=f"u{number}", peers=links, numa=number % 2)


@st.composite
def hosts(draw: st.DrawFn, *, may_lose: bool = True) -> Host:
    order = draw(st.lists(st.integers(0, 9), unique=True, max_size=8))
    return Host(
        order=tuple(order),
        lost=draw(st.frozensets(st.integers(0, 9), max_size=2)) & {*order} if may_lose else frozenset(),
        close=frozenset({frozenset({one, one + draw(st.integers(1, 3))}) for one in order}),
    )


@st.composite
def entries(draw: st.DrawFn, line: int) -> Entry:
    """An entry that no host can refuse for want of GPUs."""
    gpus = draw(st.sampled_from([-1, 0, 1, 1, 1, 2, 3]))
    count = draw(st.sampled_from([None, 1, 2]))
    names = ["a", "b", "a1", "gpu"] if gpus != 1 else ["", "", "a", "b"]
    models = draw(st.sampled_from([(), (), ("H100",), ("A100",)])) if gpus else ()
    return entry(line, name=draw(st.sampled_from(names)), gpus=gpus, count=count, models=models, rest=gpus != 0)


topologies = st.integers(1, 4).flatmap(lambda size: st.tuples(*(entries(line) for line in range(1, size + 1))))


def planned(host: Host, declared: tuple[Entry, ...], previous: Names) -> HostPlan | None:
    """The plan; None where two entries declare one name."""
    try:
        return plan_host("host", host.inventory(), topology(*declared), previous=previous)
    except GpuSpecError as error:
        assert "is also the name of" in error.message  # noqa: PT017
        return None


@given(topologies, hosts(), st.lists(hosts(), max_size=2))
def test_no_device_is_given_twice_and_no_name_is_borne_twice(
    declared: tuple[Entry, ...], host: Host, before: list[Host]
) -> None:
    previous: Names = {}
    for past in [*before, host]:
        plan = planned(past, declared, previous)
        if plan is None:
            return
        previous = names_in(plan)
        given_out = [uuid for uuids in previous.values() for uuid in uuids]
        idle = [device.uuid for device in plan.idle]
        assert sorted([*given_out, *idle]) == sorted(one.uuid for one in past.inventory().gpus)
        assert len(previous) == len(plan.agents)


@given(topologies, hosts(), hosts())
def test_planning_again_with_the_plan_as_the_one_before_changes_nothing(
    declared: tuple[Entry, ...], past: Host, now: Host
) -> None:
    before = planned(past, declared, {})
    if before is None:
        return
    plan = planned(now, declared, names_in(before))
    again = planned(now, declared, names_in(plan)) if plan else None
    if plan is None or again is None:
        assert plan is again
        return
    assert again.agents == plan.agents
    assert {device.uuid for device in again.idle} == {device.uuid for device in plan.idle}


@given(topologies, hosts(), hosts())
def test_a_device_or_group_that_stays_with_its_kind_of_agent_keeps_its_name(
    declared: tuple[Entry, ...], past: Host, now: Host
) -> None:
    before = planned(past, declared, {})
    after = planned(now, declared, names_in(before)) if before else None
    if before is None or after is None:
        return
    holders = {frozenset(uuids): name for name, uuids in names_in(before).items() if uuids}
    names = _places(before)
    for agent in after.agents:
        had = holders.get(frozenset(device.uuid for device in agent.devices), "")
        if had and names[had] == agent.place:
            assert agent.name == had


@given(hosts(may_lose=False), st.data(), st.sampled_from([1, 2, 3]))
def test_gpus_that_come_and_go_rename_nobody_else(host: Host, data: st.DataObject, size: int) -> None:
    declared = (entry(name="" if size == 1 else "group", gpus=size, rest=True),)
    before = planned(host, declared, {})
    assert before is not None
    gone = data.draw(st.frozensets(st.integers(0, 9)))
    stay = [number for number in host.order if number not in gone]
    order = data.draw(st.permutations([*stay, *data.draw(st.sampled_from([[], [20], [20, 21, 22]]))]))
    after = planned(replace(host, order=tuple(order)), declared, names_in(before))
    assert after is not None
    unharmed = {name: uuids for name, uuids in names_in(before).items() if not any(f"u{one}" in uuids for one in gone)}
    assert unharmed.items() <= names_in(after).items()


@given(topologies, hosts(), hosts())
def test_a_plan_does_not_depend_on_the_order_of_what_it_is_made_from(
    declared: tuple[Entry, ...], past: Host, now: Host
) -> None:
    before = planned(past, declared, {})
    if before is None:
        return
    plan = planned(now, declared, names_in(before))
    backwards = dict(reversed([*names_in(before).items()]))
    inventory = now.inventory()
    shuffled = replace(
        inventory,
        gpus=tuple(
            replace(one, peers={uuid: one.peers[uuid] for uuid in sorted(one.peers, reverse=True)})
            for one in reversed(inventory.gpus)
        ),
        lost=inventory.lost[::-1],
    )
    if plan is not None:
        assert plan_host("host", shuffled, topology(*declared), previous=backwards) == plan


@given(hosts())
def test_any_plan_before_is_survived(host: Host) -> None:
    """A file of names may be of another host, or damaged."""
    previous = {
        "gpu0": ("u1", "u1"),
        "gpu1": ("u1",),
        "quad0": (),
        "quad1": ("u2", "u3"),
        "quad2": ("u3", "u4"),
        "x": ("u5",),
    }
    plan = plan_host("host", host.inventory(), _quads_and_rest(), previous=previous)
    given_out = [uuid for uuids in names_in(plan).values() for uuid in uuids]
    assert len(given_out) == len(set(given_out))


def _quads_and_rest() -> Topology:
    return topology(entry(1, name="quad", gpus=2, rest=True, count=2), entry(2, rest=True))


def _places(plan: HostPlan) -> dict[str, object]:
    return {agent.name: agent.place for agent in plan.agents}
