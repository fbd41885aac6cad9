"""A whole fleet planned from saved inventories: to review a topology before any host sees it.

A host that cannot be planned does not stop the others. Inventories are taken one at a time, so that only plans are
held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.gpu.model import Inventory
from supervisor_gen.hosts import HostPatterns
from supervisor_gen.model import HostPlan, Topology
from supervisor_gen.plan import draft_for


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """The plans of the hosts, in the order they came in, and what is wrong.

    `errors` are those of a host, by its name: such a host has no plan. `problems` are the topology's with the fleet.
    """

    plans: tuple[HostPlan, ...] = ()
    errors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def plan_fleet(hosts: Iterable[tuple[str, Inventory]], topology: Topology) -> FleetPlan:
    """Plan every host, as if none had agents yet."""
    patterns = HostPatterns(topology)
    plans: dict[str, HostPlan] = {}
    errors: dict[str, tuple[str, ...]] = {}
    met: set[int] = set()
    fruitful: set[int] = set()
    for host, inventory in hosts:
        if host in plans or host in errors:
            errors[host] = (*errors.get(host, ()), f"{host}: more than one host of the fleet has this name")
            continue
        draft = draft_for(host, inventory, topology, patterns)
        met.update(draft.about)
        fruitful.update(draft.about - draft.fruitless)
        if draft.problems:
            errors[host] = draft.problems
        else:
            plans[host] = draft.plan
    return FleetPlan(
        plans=tuple(plan for host, plan in plans.items() if host not in errors),
        errors=errors,
        problems=tuple(_problems(topology, met, fruitful)),
    )


def _problems(topology: Topology, met: set[int], fruitful: set[int]) -> Iterator[str]:
    """Entries that the fleet has no use for: most likely a misspelt pattern."""
    for position, entry in enumerate(topology.entries):
        if position not in met:
            yield f"{entry.place_of('hosts')}: no host of the fleet matches {' '.join(entry.hosts) or 'it'}"
        elif entry.optional and position not in fruitful:
            yield f"{entry.place_of('gpu')}: optional, and no host of the fleet has a GPU that it selects"
