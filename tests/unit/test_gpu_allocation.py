"""Which GPUs a task gets: against a brute force of its own, and in simulated runs of starts and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.supervisor_gen import all_to_all, bridged_pairs, gpu, host_of, linked, sliced, switched_pairs

from agent.gpu.allocation import Layout, Links, Request, Unit, Wish, first_served, grants
from agent.gpu.model import Gpus, Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A layout, and its islands as a person would draw them."""

    layout: Layout
    links: Links
    islands: tuple[frozenset[str], ...]

    @property
    def labels(self) -> list[str]:
        return [unit.label for unit in self.layout.units]


def drawn(inventory: Gpus, *islands: str) -> Host:
    labels = [
        label
        for one in inventory.gpus
        for label in ([f"{one.index}:{part.index}" for part in one.mig] or [str(one.index)])
    ]
    layout = Layout.of(inventory, labels)
    peers = {one.index: one.peers for one in inventory.gpus}
    uuids = {one.index: one.uuid for one in inventory.gpus}
    links = {
        frozenset((one.uuid, other.uuid)): link
        for one, other in combinations(layout.units, 2)
        if (link := peers[one.gpu].get(uuids[other.gpu]))
    }
    return Host(layout=layout, links=links, islands=tuple(frozenset(island.split()) for island in islands))


#: NVLink islands that each lie on both NUMA nodes.
ACROSS = linked(8, {pair: Link.NVLINK for island in ((0, 2, 4, 6), (1, 3, 5, 7)) for pair in combinations(island, 2)})
HALVES = linked(8, {pair: Link.NVLINK for island in ((0, 1, 2, 3), (4, 5, 6, 7)) for pair in combinations(island, 2)})

HOSTS = {
    "H100": drawn(all_to_all(), "0 1 2 3", "4 5 6 7"),
    "two NVLink islands": drawn(HALVES, "0 1 2 3", "4 5 6 7"),
    "two NVLink islands, each over both nodes": drawn(ACROSS, "0 2", "4 6", "1 3", "5 7"),
    "NVLink bridges": drawn(bridged_pairs(), "0 2", "1 3", "4 6", "5 7"),
    "PCIe switches": drawn(switched_pairs(), "0 1", "2 3", "4 5", "6 7"),
    "PCIe": drawn(linked(8, {}), "0 1 2 3", "4 5 6 7"),
    "one NVLink bridge": drawn(linked(4, {(2, 3): Link.NVLINK}), "0", "1", "2 3"),
    "links not known": drawn(host_of(*(gpu(index) for index in range(6))), "0 1 2 3", "4 5"),
    "nothing known": drawn(host_of(*(gpu(index, numa=None) for index in range(5))), "0 1 2 3 4"),
    "MIG": drawn(
        host_of(sliced(0, "1g", "1g", "2g"), sliced(1, "3g", "3g"), sliced(4, "1g", "1g", "1g")),
        "0:0 0:1 0:2",
        "1:0 1:1",
        "4:0 4:1 4:2",
    ),
    "MIG and whole": drawn(
        host_of(sliced(0, "1g", "1g", "2g"), gpu(1), gpu(2), sliced(4, "3g", "3g"), gpu(5)),
        "0:0 0:1 0:2",
        "1 2",
        "4:0 4:1",
        "5",
    ),
}

#: How far apart two units are: the place in this list, by their link and by whether they share a NUMA node.
FARTHER = [
    "same GPU",
    *product(("nvlink", "board", "switch", "switches", "host_bridge", "node", "system"), (True, False)),
]


def best_by_hand(host: Host, free: Sequence[str], count: int) -> tuple[str, ...]:
    """The best of all groups, by a criterion that is written down apart from the code's."""
    units = {unit.label: unit for unit in host.layout.units}
    order = list(units)

    def apart(one: Unit, other: Unit) -> int:
        if ":" in one.label and ":" in other.label and one.label.split(":")[0] == other.label.split(":")[0]:
            return FARTHER.index("same GPU")
        link = host.links.get(frozenset({one.uuid, other.uuid}))
        return FARTHER.index((link.value if link else "system", one.numa == other.numa))

    def judged(group: tuple[str, ...]) -> tuple[object, ...]:
        pairs = [apart(units[one], units[other]) for one, other in combinations(group, 2)]
        left = set(free) - set(group)
        on_islands = sorted((len(left & island) for island in host.islands), reverse=True)
        nodes = {unit.numa for unit in host.layout.units}
        on_nodes = sorted((sum(units[label].numa == node for label in left) for node in nodes), reverse=True)
        return (
            sum(bool(island & set(group)) for island in host.islands),
            max(pairs, default=0),
            sum(pairs),
            [-number for number in on_islands],
            [-number for number in on_nodes],
            [order.index(label) for label in group],
        )

    return min(combinations(sorted(free, key=order.index), count), key=judged)


def flooded(units: Sequence[Unit], links: Mapping[frozenset[str], Link]) -> tuple[frozenset[str], ...]:
    """Islands of a random host: from each unit to everything that its node's closest kind of link leads to."""

    def neighbours(one: Unit) -> set[str]:
        if ":" in one.label:
            return {other.label for other in units if ":" in other.label and other.gpu == one.gpu}
        node = [other for other in units if other.numa == one.numa and ":" not in other.label]
        kinds = [links[pair] for a, b in combinations(node, 2) if (pair := frozenset({a.uuid, b.uuid})) in links]
        kind = min(kinds, key=list(Link).index, default=None)
        return {other.label for other in node if links.get(frozenset({one.uuid, other.uuid})) == kind}

    by_label = {unit.label: unit for unit in units}
    islands = set()
    for unit in units:
        seen, edge = {unit.label}, {unit.label}
        while edge:
            edge = set().union(*(neighbours(by_label[label]) for label in edge)) - seen
            seen |= edge
        islands.add(frozenset(seen))
    return tuple(islands)


@st.composite
def random_hosts(draw: st.DrawFn) -> Host:
    """Up to 10 units, whole or sliced, with any links between them, some not known."""
    units: list[Unit] = []
    for index in range(draw(st.integers(1, 5))):
        numa = draw(st.sampled_from([0, 1, None]))
        labels = draw(st.sampled_from([[f"{index}"], [f"{index}"], [f"{index}:0", f"{index}:1"]]))
        units += [Unit(label=label, uuid=f"u{label}", gpu=index, numa=numa) for label in labels]
    kinds = st.sampled_from([None, Link.NVLINK, Link.NVLINK, Link.SWITCH, Link.NODE, Link.SYSTEM])
    pairs = [frozenset({one.uuid, other.uuid}) for one, other in combinations(units, 2) if one.gpu != other.gpu]
    links = {pair: link for pair in pairs if (link := draw(kinds))}
    return Host(layout=Layout(units, links), links=links, islands=flooded(units, links))


hosts = st.one_of(st.sampled_from(list(HOSTS.values())), random_hosts())
wishes = st.tuples(st.integers(1, 5), st.integers(0, 4)).map(lambda found: (found[0], sum(found)))


Situation = tuple[Host, list[str], list[Request]]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A host, what is free on it, and who asks."""
    host = draw(hosts)
    free = draw(st.lists(st.sampled_from(host.labels), unique=True))
    asked = draw(st.lists(st.tuples(wishes, st.integers(0, 100)), max_size=4))
    requests = [
        Request(wish=Wish(queue=f"q{number}", least=least, most=most), waited_seconds=float(waited))
        for number, ((least, most), waited) in enumerate(asked)
    ]
    return host, free, requests


def labels_of(units: Sequence[Unit]) -> str:
    return " ".join(unit.label for unit in units)


@pytest.mark.parametrize(
    ("name", "free", "count", "expected"),
    [
        ("H100", "0 1 2 3 4 5 6 7", 4, "0 1 2 3"),
        ("H100", "1 2 3 4 5 6 7", 4, "4 5 6 7"),
        ("H100", "1 2 3 4 5 6 7", 2, "1 2"),
        ("H100", "0 1 2 3 6", 1, "6"),
        ("H100", "3 4 5", 2, "4 5"),
        ("H100", "1 2 3 5 6 7", 4, "1 2 3 5"),
        ("H100", "1 2", 3, ""),
        ("H100", "1 2", 0, ""),
        ("two NVLink islands", "2 3 4 5 6", 2, "2 3"),
        ("two NVLink islands, each over both nodes", "0 1 2 3 4 5 6 7", 4, "0 2 4 6"),
        ("NVLink bridges", "1 2 3 4 6", 1, "2"),
        ("NVLink bridges", "0 2 4 5 6 7", 2, "0 2"),
        ("PCIe switches", "0 1 2 3 5 6 7", 1, "5"),
        ("PCIe switches", "0 2 4 5", 2, "4 5"),
        ("PCIe", "0 1 2 5 7", 2, "5 7"),
        ("one NVLink bridge", "0 1 2 3", 1, "0"),
        ("one NVLink bridge", "0 1 2 3", 2, "2 3"),
        ("one NVLink bridge", "0 1 2", 2, "0 1"),
        ("MIG", "0:0 0:1 0:2 1:0 1:1 4:0 4:1 4:2", 2, "1:0 1:1"),
        ("MIG", "0:0 0:1 0:2 1:0 4:0 4:1 4:2", 1, "1:0"),
        ("MIG", "0:0 0:1 0:2 1:0 4:1 4:2", 2, "4:1 4:2"),
        ("MIG", "0:0 1:1 4:2", 2, "0:0 1:1"),
        ("MIG and whole", "0:0 0:1 1 2 5", 2, "0:0 0:1"),
    ],
)
def test_the_closest_units_are_chosen_then_those_that_break_least(
    name: str, free: str, count: int, expected: str
) -> None:
    assert labels_of(HOSTS[name].layout.choose(free.split(), count)) == expected


@settings(max_examples=300, deadline=None)
@given(hosts, st.data())
def test_no_other_group_is_better_than_the_chosen_one(host: Host, data: st.DataObject) -> None:
    free = data.draw(st.lists(st.sampled_from(host.labels), unique=True, min_size=1))
    for count in range(1, len(free) + 1):
        assert tuple(unit.label for unit in host.layout.choose(free, count)) == best_by_hand(host, free, count)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([f"{gpu}:{part}" for gpu in range(8) for part in range(7)]), unique=True, min_size=40))
def test_where_groups_are_too_many_to_look_at_all_the_chosen_one_is_of_one_gpu_that_fits_best(free: list[str]) -> None:
    everything = host_of(*(sliced(index, *["1g"] * 7) for index in range(8)))
    layout = Layout.of(everything, [str(index) for index in range(8)])
    left = {index: sum(label.startswith(f"{index}:") for label in free) for index in range(8)}
    for count in range(4, 8):
        chosen = layout.choose(free, count)
        assert len({unit.label for unit in chosen} & set(free)) == count
        sizes = [left[index] for index in left if left[index] >= count]
        if sizes:
            assert {left[unit.gpu] for unit in chosen} == {min(sizes)}
            assert len({unit.gpu for unit in chosen}) == 1
        else:
            assert len({unit.gpu for unit in chosen}) == 2


def test_many_whole_gpus_are_taken_by_islands_too() -> None:
    layout = Layout.of(all_to_all(32), [str(index) for index in range(32)])
    free = [unit.label for unit in layout.units if unit.label not in ("0", "9")]
    assert labels_of(layout.choose(free, 8)) == "4 5 6 7 12 13 14 15"
    assert labels_of(layout.choose(free, 7)) == "1 2 3 4 5 6 7"


@settings(deadline=None)
@given(situations())
def test_a_grant_is_free_units_each_once_and_as_many_as_wished(situation: Situation) -> None:
    host, free, requests = situation
    for after in (None, 0.0, 50.0):
        for queue, units in grants(host.layout, free, requests, reserve_after_seconds=after).items():
            wish = next(request.wish for request in requests if request.wish.queue == queue)
            labels = {unit.label for unit in units}
            assert len(labels) == len(units)
            assert labels <= set(free)
            assert wish.least <= len(units) <= wish.most


@settings(deadline=None)
@given(situations())
def test_without_reservation_nobody_waits_while_enough_is_free(situation: Situation) -> None:
    host, free, requests = situation
    granted = grants(host.layout, free, requests)
    assert list(granted) == [request.wish.queue for request in requests if request.wish.least <= len(free)]
    for request in requests:
        if request.wish.queue in granted:
            assert len(granted[request.wish.queue]) == min(request.wish.most, len(free))


@settings(deadline=None)
@given(situations(), st.randoms(use_true_random=False))
def test_the_same_question_has_the_same_answer_however_it_is_put(situation: Situation, chance: Random) -> None:
    host, free, requests = situation
    anew = Layout(host.layout.units, host.links)
    shuffled = sorted(free, key=lambda label: chance.random())
    for after in (None, 10.0):
        asked = grants(host.layout, free, requests, reserve_after_seconds=after)
        assert asked == grants(host.layout, frozenset(free), requests, reserve_after_seconds=after)
        assert asked == grants(anew, shuffled, requests, reserve_after_seconds=after)


@settings(deadline=None)
@given(situations())
def test_what_is_reserved_is_given_to_nobody_else(situation: Situation) -> None:
    host, free, requests = situation
    first = first_served(host.layout, requests, reserve_after_seconds=20.0)
    granted = grants(host.layout, free, requests, reserve_after_seconds=20.0)
    if first is None:
        assert granted == grants(host.layout, free, requests)
        return
    assert first.waited_seconds == max(
        request.waited_seconds for request in requests if request.wish.least <= len(host.labels)
    )
    if first.wish.least > len(free):
        assert not granted
        return
    assert len(granted[first.wish.queue]) == min(first.wish.most, len(free))
    for queue, units in granted.items():
        if queue != first.wish.queue:
            assert len(set(free) - {unit.label for unit in units}) >= first.wish.least


def test_a_request_that_all_units_are_too_few_for_reserves_nothing() -> None:
    layout = Layout.plain(["0", "1"])
    huge = Request(wish=Wish(queue="huge", least=3, most=3), waited_seconds=1e6)
    small = Request(wish=Wish(queue="small", least=1, most=1))
    assert list(grants(layout, ["1"], [huge, small], reserve_after_seconds=1)) == ["small"]


def test_of_two_that_wait_for_too_long_only_one_reserves() -> None:
    layout = Layout.plain([str(index) for index in range(8)])
    longer = Request(wish=Wish(queue="longer", least=2, most=2), waited_seconds=200)
    shorter = Request(wish=Wish(queue="shorter", least=6, most=6), waited_seconds=100)
    assert list(grants(layout, ["0", "1", "2", "3"], [shorter, longer], reserve_after_seconds=60)) == ["longer"]
    assert list(grants(layout, ["0"], [shorter, longer], reserve_after_seconds=60)) == []
    everything = [unit.label for unit in layout.units]
    assert list(grants(layout, everything, [shorter, longer], reserve_after_seconds=60)) == ["shorter", "longer"]


class Scheduler:
    """A host in virtual time: small tasks without end, and a big one that comes when the host is full of them."""

    def __init__(self, layout: Layout, small: Sequence[Wish], big: Wish, priority: int, after: float | None) -> None:
        self.layout, self.big, self.after = layout, big, after
        self.wishes = [*small[:priority], big, *small[priority:]]
        self.since = {wish.queue: 0.0 for wish in self.wishes}
        self.now = 0.0
        self.free = {unit.label for unit in layout.units}
        self.running: dict[int, frozenset[str]] = {}
        self.started = 0
        self.big_has_started = False
        #: What ran when everybody began to make room for the big task.
        self.in_the_way: set[int] | None = None
        self.start_all(without_big=True)

    def requests(self, without_big: bool) -> list[Request]:
        return [
            Request(wish=wish, waited_seconds=self.now - self.since[wish.queue])
            for wish in self.wishes
            if not (wish is self.big and (without_big or self.big_has_started))
        ]

    def start_all(self, *, without_big: bool = False) -> None:
        """Start what can be started, always the first, each time asking anew."""
        while granted := grants(self.layout, self.free, self.requests(without_big), reserve_after_seconds=self.after):
            queue, units = next(iter(granted.items()))
            labels = {unit.label for unit in units}
            assert labels <= self.free, "a unit was given twice"
            assert len(labels) == len(units)
            self.free -= labels
            self.running[self.started] = frozenset(labels)
            self.started += 1
            self.since[queue] = self.now
            self.big_has_started |= queue == self.big.queue
        waiting = self.requests(without_big)
        if self.after is None:
            assert all(request.wish.least > len(self.free) for request in waiting), "somebody waits for no reason"
        elif self.in_the_way is None and not without_big:
            first = first_served(self.layout, waiting, reserve_after_seconds=self.after)
            if first and first.wish is self.big:
                self.in_the_way = set(self.running)

    def end(self, number: int) -> None:
        self.now += 1
        self.free |= self.running.pop(number)
        self.start_all()


SMALL = [Wish(queue="one", least=1, most=1), Wish(queue="some", least=1, most=3), Wish(queue="two", least=2, most=2)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["H100", "PCIe", "MIG", "NVLink bridges"]),
    st.integers(3, 8),
    st.sampled_from([0.0, 3.0, 20.0]),
    st.data(),
)
def test_a_big_task_with_reservation_starts_when_all_that_ran_before_it_has_ended(
    name: str, least: int, after: float, data: st.DataObject
) -> None:
    kinds, priority = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
    big = Wish(queue="big", least=least, most=8)
    run = Scheduler(HOSTS[name].layout, SMALL[:kinds], big, priority, after)
    ended = 0
    while not run.big_has_started:
        assert run.in_the_way is None or run.in_the_way & run.running.keys(), "it waits for tasks that came later"
        run.end(data.draw(st.sampled_from(sorted(run.running))))
        ended += 1
        assert ended <= after + 1 + 2 * len(run.layout.units)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1), st.lists(st.integers(0, 7), min_size=50, max_size=100))
def test_a_big_task_without_reservation_is_starved_by_small_ones_whatever_its_priority(
    priority: int, ends: list[int]
) -> None:
    big = Wish(queue="big", least=4, most=4)
    run = Scheduler(HOSTS["H100"].layout, SMALL[:1], big, priority, None)
    for which in ends:
        run.end(sorted(run.running)[which])
        assert not run.big_has_started


@settings(max_examples=100, deadline=None)
@given(hosts, st.lists(wishes, min_size=1, max_size=4), st.sampled_from([None, 2.0]), st.data())
def test_in_any_run_of_starts_and_ends_every_queue_that_fits_goes_on(
    host: Host, wished: list[tuple[int, int]], after: float | None, data: st.DataObject
) -> None:
    small = [Wish(queue=f"q{number}", least=least, most=most) for number, (least, most) in enumerate(wished)]
    run = Scheduler(host.layout, small, Wish(queue="big", least=len(host.labels) + 1, most=99), 0, after)
    for _ in range(20):
        if not run.running:
            break
        run.end(data.draw(st.sampled_from(sorted(run.running))))
        taken = [label for labels in run.running.values() for label in labels]
        assert sorted([*taken, *run.free]) == sorted(host.labels)
    assert bool(run.running) == any(wish.least <= len(host.labels) for wish in small)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0"], "0:0 0:1"),
        (["0:1", "1"], "0:1 1"),
        (["GPU-1", "MIG-0-1"], "1 0:1"),
        (["MIG-GPU-0/7/0"], "0:0"),
        (["GPU-0", "GPU-1"], "0:0 0:1 1"),
    ],
)
def test_labels_name_units_in_every_way_that_an_agent_may_be_given_them(labels: list[str], expected: str) -> None:
    inventory = host_of(sliced(0, "1g", "1g", uuid="GPU-0"), gpu(1, uuid="GPU-1"), sliced(2))
    layout = Layout.of(inventory, labels)
    assert labels_of(layout.units) == expected
    assert {unit.numa for unit in layout.units} == {0}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["7"], "no GPU or MIG instance 7; it has: 0:0, 0:1, 1"),
        (["0:5"], "no GPU or MIG instance 0:5"),
        (["GPU-none"], "no GPU or MIG instance GPU-none"),
        (["2"], "GPU 2 is in MIG mode and has no instances"),
        (["1", "u1"], "named twice: 1"),
        (["0", "0:1"], "named twice: 0:1"),
    ],
)
def test_label_of_what_is_not_there_is_refused_by_name(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.of(host_of(sliced(0, "1g", "1g"), gpu(1), sliced(2)), labels)


def test_of_a_host_that_is_not_known_labels_are_enough() -> None:
    layout = Layout.plain(["0", "1", "GPU-x", "2:0", "2:1"])
    assert [(unit.uuid, unit.gpu, unit.numa) for unit in layout.units] == [
        ("0", 0, None),
        ("1", 1, None),
        ("GPU-x", -3, None),
        ("2:0", 2, None),
        ("2:1", 2, None),
    ]
    assert labels_of(layout.choose(["0", "1", "GPU-x", "2:0", "2:1"], 2)) == "2:0 2:1"
    assert labels_of(layout.choose(["1", "GPU-x", "2:0"], 1)) == "2:0"


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2), (-1, -1)])
def test_wish_for_nothing_is_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="queue q"):
        Wish(queue="q", least=least, most=most)
