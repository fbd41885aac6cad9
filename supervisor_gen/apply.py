"""Making a host have exactly the planned agents. Read `apply`; what is decided beforehand is in `steps.py`.

Order matters. New and changed files are written first, then the supervisor is told, then agents are started and
restarted. Agents that go, or get other devices, are drained: their files stay until their task has ended, and they are
still started at boot, so that a task which the host's reboot interrupts is accounted for. `apply` may be interrupted at
any point and run again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor_gen import holds, state
from supervisor_gen.drain import Drain, Say
from supervisor_gen.emitters import Emitter
from supervisor_gen.model import Files, HostPlan, Site
from supervisor_gen.steps import Action, Step, steps_for
from supervisor_gen.supervisors.base import AT_REST, Condition, State, Supervisor
from supervisor_gen.writer import compare, files_on_disk, remove_files, write_files

LOOK_SECONDS = 0.5
#: What an agent without a task takes to leave; it is waited for in any case.
IDLE_SECONDS = 2.0
#: What is said of agents that take no task until they are resumed.
HELD, HELD_AND_DRAINING = "held: left alone", "held: draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is on the disk, what is to be there, and the steps from one to the other."""

    root: Path
    before: Files
    after: Files
    steps: tuple[Step, ...]
    names_before: state.Names
    names_after: state.Names

    def agents(self, *actions: Action) -> tuple[str, ...]:
        """The agents that one of these actions is for."""
        return tuple(step.agent for step in self.steps if step.action in actions)

    @property
    def is_empty(self) -> bool:
        return not compare(self.before, self.after)


@dataclass(slots=True)
class Result:
    """What became of the agents, by name; `failed` are those that did not come up."""

    done: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


def change_for(root: Path, plan: HostPlan, emitter: Emitter, *, site: Site, names: state.Names) -> Change:
    """Compare a plan with what is below `root`. An unknown inventory leaves every agent with GPUs as it is."""
    before = files_on_disk(root, emitter.patterns)
    kept = {name: uuids for name, uuids in names.items() if plan.unknown and uuids}
    kept_files = {path: file for path, file in before.items() if emitter.owner(path) in kept}
    after = {**emitter.files_for(plan, site, also=tuple(kept)), **kept_files}
    names_after = {**state.names_in(plan), **kept}
    steps = steps_for(before, after, emitter)
    return Change(root=root, before=before, after=after, steps=steps, names_before=names, names_after=names_after)


def write(change: Change, plan: HostPlan, emitter: Emitter, site: Site, *, draining: Iterable[str]) -> None:
    """Bring the disk to the plan, with the agents in `draining` as they were."""
    draining = tuple(draining)
    also = tuple(
        sorted({*draining, *(name for name in change.names_after if change.names_after[name] and plan.unknown)})
    )
    wanted = dict(emitter.files_for(plan, site, also=also))
    wanted.update({path: file for path, file in change.after.items() if emitter.owner(path)})
    for path in [path for path in wanted if emitter.owner(path) in draining]:
        del wanted[path]
    wanted.update({path: file for path, file in change.before.items() if emitter.owner(path) in draining})
    now = files_on_disk(change.root, emitter.patterns)
    difference = compare(now, wanted)
    write_files(change.root, {path: wanted[path] for path in (*difference.added, *difference.changed)})
    remove_files(change.root, difference.stale)


def names_while(change: Change, draining: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Which agent has which GPUs while some still have to be drained."""
    names = dict(change.names_after)
    names.update({agent: change.names_before[agent] for agent in draining if agent in change.names_before})
    return names


def apply(
    change: Change,
    plan: HostPlan,
    emitter: Emitter,
    supervisor: Supervisor,
    site: Site,
    *,
    inventory: Mapping[str, Any] | None,
    wait_for_tasks: bool,
    ready_seconds: float,
    say: Say,
) -> Result:
    """Write, tell the supervisor, start, restart, drain; wait as far as asked to.

    An agent whose GPU is still in the hands of one that drains is started when that has left; one that is held, when it
    is resumed.
    """
    result = Result()
    held = frozenset(holds.read(change.root))
    left = set(change.agents(Action.REMOVE, Action.REPLACE))
    write(change, plan, emitter, site, draining=left)
    state.save(change.root, names_while(change, left), inventory)
    supervisor.prepare()
    supervisor.reload([step.agent for step in change.steps])
    states = supervisor.states([step.agent for step in change.steps])
    due, restart = _to_start(change, states, held, result)
    drain = Drain(supervisor, plan.host, Path(site.state_dir), say)
    drain.ask(left)
    supervisor.drain([agent for agent, what in result.done.items() if what == HELD_AND_DRAINING])
    supervisor.restart(restart)
    expected = {*restart}
    began = ready_from = time.monotonic()
    while True:
        if ended := drain.ended(left):
            left -= ended
            write(change, plan, emitter, site, draining=left)
            state.save(change.root, names_while(change, left), inventory)
            due += _after_drain(change, ended, supervisor, held, result)
        if start := [agent for agent in due if not _waits_for_gpu(change, agent, left)]:
            supervisor.start(start)
            due = [agent for agent in due if agent not in start]
            expected |= {*start}
            ready_from = time.monotonic()
        note_ready(supervisor.states(sorted(expected)), expected, result)
        now = time.monotonic()
        waits_for_tasks = left and (wait_for_tasks or now < began + IDLE_SECONDS)
        if not waits_for_tasks and not (expected and now < ready_from + ready_seconds):
            break
        time.sleep(LOOK_SECONDS)
    _note_the_rest(supervisor, expected, left, result)
    for agent in due:
        result.done.pop(agent, None)
        result.waiting[agent] = "its GPU is not free yet"
    return result


def _after_drain(
    change: Change, ended: set[str], supervisor: Supervisor, held: Collection[str], result: Result
) -> list[str]:
    """Forget agents that are gone for good; those that come back with other devices are to be started."""
    replaced = sorted(ended & set(change.agents(Action.REPLACE)))
    removed = sorted(ended - set(replaced))
    supervisor.forget(removed)
    holds.release(change.root, removed)
    supervisor.reload(replaced)
    result.done |= {**dict.fromkeys(removed, "removed"), **dict.fromkeys(replaced, "replaced")}
    result.done |= {agent: "held: replaced" for agent in replaced if agent in held}
    return [agent for agent in replaced if agent not in held]


def _waits_for_gpu(change: Change, agent: str, draining: set[str]) -> bool:
    """Whether a device that `agent` is to have belongs to another agent that has not left yet."""
    taken = {uuid for other in draining - {agent} for uuid in change.names_before.get(other, ())}
    return bool(taken & {*change.names_after.get(agent, ())})


def _to_start(
    change: Change, states: Mapping[str, State], held: Collection[str], result: Result
) -> tuple[list[str], list[str]]:
    """Which agents to start and which to restart. One that an operator has masked or holds is left alone."""
    start, restart = [], []
    for step in change.steps:
        condition = states[step.agent].condition
        if step.action in (Action.REMOVE, Action.REPLACE):
            continue
        if condition is Condition.MASKED:
            result.done[step.agent] = "masked: left alone"
        elif step.agent in held:
            result.done[step.agent] = HELD if condition in AT_REST else HELD_AND_DRAINING
        elif condition in AT_REST:
            start.append(step.agent)
            result.done[step.agent] = "started"
        elif step.action is Action.KEEP:
            result.done[step.agent] = "unchanged"
        else:
            restart.append(step.agent)
            result.done[step.agent] = "restarted"
    return start, restart


def note_ready(states: Mapping[str, State], expected: set[str], result: Result) -> None:
    """Take those that have come up, or failed, out of `expected`."""
    for agent, found in states.items():
        if found.condition is Condition.RUNNING:
            expected.discard(agent)
            result.failed.pop(agent, None)
        elif found.condition is Condition.FAILED:
            expected.discard(agent)
            result.failed[agent] = found.says


def _note_the_rest(supervisor: Supervisor, expected: set[str], left: set[str], result: Result) -> None:
    for agent, found in supervisor.states(sorted(expected | left)).items():
        result.waiting[agent] = found.says or ("draining" if agent in left else "starting")
