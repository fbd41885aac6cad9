"""Groups of GPUs that are close together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.supervisor_gen import all_to_all, bridged_pairs, gpu, host_of, linked, sliced, switched_pairs, without

from agent.gpu.model import Gpus, Link
from supervisor_gen.devices import units_of
from supervisor_gen.grouping import closest_groups


def groups(inventory: Gpus, size: int, count: int = 99) -> list[str]:
    return [" ".join(unit.label for unit in group) for group in closest_groups(units_of(inventory), size, count)]


#: Two NVLink islands, each over both NUMA nodes.
TWO_ISLANDS = linked(
    8, {pair: Link.NVLINK for island in ((0, 2, 4, 6), (1, 3, 5, 7)) for pair in combinations(island, 2)}
)


@pytest.mark.parametrize(
    ("inventory", "size", "expected"),
    [
        (all_to_all(), 4, ["0 1 2 3", "4 5 6 7"]),
        (all_to_all(), 2, ["0 1", "2 3", "4 5", "6 7"]),
        (all_to_all(), 3, ["0 1 2", "4 5 6"]),
        (all_to_all(), 8, ["0 1 2 3 4 5 6 7"]),
        (all_to_all(16), 8, ["0 1 2 3 4 5 6 7", "8 9 10 11 12 13 14 15"]),
        (bridged_pairs(), 2, ["0 2", "1 3", "4 6", "5 7"]),
        (bridged_pairs(), 4, ["0 1 2 3", "4 5 6 7"]),
        (switched_pairs(), 2, ["0 1", "2 3", "4 5", "6 7"]),
        (switched_pairs(), 4, ["0 1 2 3", "4 5 6 7"]),
        (TWO_ISLANDS, 4, ["0 2 4 6", "1 3 5 7"]),
        (host_of(*(gpu(index) for index in range(8))), 4, ["0 1 2 3", "4 5 6 7"]),
        (host_of(*(gpu(index, numa=index % 2) for index in range(8))), 4, ["0 2 4 6", "1 3 5 7"]),
        (host_of(*(gpu(index, numa=None) for index in range(5))), 2, ["0 1", "2 3"]),
        (
            host_of(*(sliced(index, "1g", "1g", "2g") for index in range(2))),
            2,
            ["0:0 0:1", "0:2 1:2", "1:0 1:1"],
        ),
    ],
)
def test_groups_are_formed_of_what_is_close(inventory: Gpus, size: int, expected: list[str]) -> None:
    assert groups(inventory, size) == expected


def test_a_number_of_groups_are_the_closest_ones() -> None:
    assert groups(bridged_pairs(), 2, 2) == ["0 2", "1 3"]
    one_bridge = linked(4, {(2, 3): Link.NVLINK})
    assert groups(one_bridge, 2, 1) == ["2 3"]
    assert groups(one_bridge, 5) == []


def test_more_gpus_than_all_candidates_can_be_looked_at_are_grouped_as_well() -> None:
    assert groups(all_to_all(32), 4) == [
        " ".join(str(index) for index in range(start, start + 4)) for start in range(0, 32, 4)
    ]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("make", [all_to_all, bridged_pairs, switched_pairs])
@pytest.mark.parametrize("lost", range(8))
def test_a_lost_gpu_leaves_all_groups_as_they_were(make: Callable[[], Gpus], size: int, lost: int) -> None:
    inventory = make()
    assert groups(without(inventory, lost), size) == groups(inventory, size)


def test_two_lost_gpus_of_one_group_leave_the_other_as_it_was() -> None:
    for lost in combinations(range(4), 2):
        assert groups(without(all_to_all(), *lost), 4) == ["0 1 2 3", "4 5 6 7"]


@given(
    st.dictionaries(st.tuples(st.integers(0, 6), st.integers(0, 6)), st.sampled_from(Link)),
    st.integers(1, 7),
    st.data(),
)
def test_groups_are_disjoint_and_do_not_depend_on_the_order_of_what_is_given(
    links: dict[tuple[int, int], Link], size: int, data: st.DataObject
) -> None:
    units = units_of(linked(7, links))
    found = closest_groups(units, size, 99)
    assert len(found) == 7 // size
    assert len({unit.key for group in found for unit in group}) == size * len(found)
    assert closest_groups(data.draw(st.permutations(units)), size, 99) == found
