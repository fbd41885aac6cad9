"""Making a host have exactly the planned agents. Read `apply`; what is decided beforehand is in `steps.py`.

Order matters. New and changed files are written first, then the supervisor is told, then agents are started and
restarted. Agents that go, or get other devices, are drained: their files stay until their task has ended, and they are
still started at boot, so that a task which the host's reboot interrupts is accounted for. `apply` may be interrupted at
any point and run again.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.files import read_json
from supervisor_gen import state
from supervisor_gen.emitters import Emitter
from supervisor_gen.model import DEFAULT_CONFIG_FILE, DEFAULT_USER, Files, HostPlan, PlannedAgent, Site
from supervisor_gen.steps import Action, Step, steps_for
from supervisor_gen.supervisors.base import Condition, State, Supervisor
from supervisor_gen.writer import compare, files_on_disk, refuse_foreign, remove_files, write_files

LOOK_SECONDS = 0.5
#: An agent that is between two starts when it is asked to drain is asked again.
ASK_AGAIN_SECONDS = 5.0
#: How long an agent that was started may take until it is seen to run; at boot its turn comes after ours.
BEGIN_SECONDS = 60.0
_AT_REST = (Condition.GONE, Condition.FAILED, Condition.MASKED)

Say = Callable[[str], None]


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


def check(change: Change, plan: HostPlan, site: Site, *, hidden: Sequence[str] = (), offline: bool = False) -> None:
    """Refuse before anything is written: foreign files in the way; programs, accounts and users that are not there.

    `hidden` are places that agents cannot see. `offline`: an image is prepared, into which all that may come later.
    """
    refuse_foreign(change.root, change.after)
    if offline:
        return
    if plan.agents and not Path(site.program).exists():
        raise ConfigError(f"there is no {site.program}", hint="--program names the clearml-agent that the units call.")
    _refuse_hidden(site.program, hidden)
    for agent in plan.agents:
        _refuse_unknown_user(agent)
        if not Path(agent.settings.config_file).exists():
            raise ConfigError(
                f"{agent.place}: agent {agent.name} is to read {agent.settings.config_file}, which does not exist",
                hint=f"`clearml-agent init` writes one; {DEFAULT_CONFIG_FILE} (mode 0600) is the usual place.",
            )


def _refuse_hidden(program: str, hidden: Sequence[str]) -> None:
    """A program in a place that the units hide from their processes would only fail in the unit."""
    place = next((place for place in hidden if os.path.realpath(program).startswith(f"{place}/")), "")
    if place:
        raise ConfigError(
            f"{program} is below {place}, which the units hide",
            hint="Install gpufleet elsewhere (/opt/gpufleet/current is the usual place), or name it by --program.",
        )


def _refuse_unknown_user(agent: PlannedAgent) -> None:
    try:
        if agent.settings.user != DEFAULT_USER:
            pwd.getpwnam(agent.settings.user)
        if agent.settings.mode == "docker":
            grp.getgrnam("docker")
    except KeyError as error:
        missing = "group docker" if error.args[0].startswith("getgrnam") else f"user {agent.settings.user}"
        raise ConfigError(f"{agent.place}: agent {agent.name} needs the {missing}, which is not there") from error


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
    """Write, tell the supervisor, start, restart, drain; wait as far as asked to."""
    result = Result()
    draining = change.agents(Action.REMOVE, Action.REPLACE)
    write(change, plan, emitter, site, draining=draining)
    state.save(change.root, names_while(change, draining), inventory)
    supervisor.prepare()
    supervisor.reload([step.agent for step in change.steps])
    states = supervisor.states([step.agent for step in change.steps])
    start, restart = _to_start(change, states, result)
    supervisor.start(start)
    supervisor.restart(restart)
    left = set(draining)
    asked = Drain(supervisor, plan.host, Path(site.state_dir), say)
    asked.ask(left)
    expected = {*start, *restart}
    deadline = time.monotonic() + ready_seconds
    while True:
        ended = asked.ended(left)
        if ended:
            left -= ended
            write(change, plan, emitter, site, draining=left)
            state.save(change.root, names_while(change, left), inventory)
            replaced = sorted(ended & set(change.agents(Action.REPLACE)))
            supervisor.forget(sorted(ended - set(replaced)))
            supervisor.reload(replaced)
            supervisor.start(replaced)
            expected |= set(replaced)
            deadline = time.monotonic() + ready_seconds
            result.done.update(dict.fromkeys(ended - set(replaced), "removed"))
            result.done.update(dict.fromkeys(replaced, "replaced"))
        _note_ready(supervisor.states(sorted(expected)), expected, result)
        if not (left and wait_for_tasks) and (not expected or time.monotonic() >= deadline):
            break
        time.sleep(LOOK_SECONDS)
    _note_the_rest(supervisor, expected, left, result)
    return result


class Drain:
    """Agents that were asked to finish their tasks and leave, and what they say meanwhile."""

    def __init__(self, supervisor: Supervisor, host: str, state_dir: Path, say: Say) -> None:
        self._supervisor = supervisor
        self._host = host
        self._state_dir = state_dir
        self._say = say
        self._said: dict[str, str] = {}
        self._started_at: dict[str, float] = {}
        self._asked_at = 0.0

    def ask(self, agents: Iterable[str]) -> None:
        """Ask those that run. One that does not, and has left a task behind, is started to account for it."""
        states = self._supervisor.states(sorted(agents))
        behind = [
            agent
            for agent, found in states.items()
            if found.condition in _AT_REST
            and agent not in self._started_at
            and has_unfinished(self._state_dir, self._host, agent)
        ]
        self._supervisor.start(behind)
        self._started_at |= dict.fromkeys(behind, time.monotonic())
        self._supervisor.drain([agent for agent, found in states.items() if found.condition not in _AT_REST])
        self._asked_at = time.monotonic()

    def ended(self, agents: set[str]) -> set[str]:
        """Those that have left by now; what the others say is passed on whenever it changes."""
        if not agents:
            return set()
        if time.monotonic() > self._asked_at + ASK_AGAIN_SECONDS:
            self.ask(agents)
        states = self._supervisor.states(sorted(agents))
        for agent, found in states.items():
            if found.condition not in _AT_REST and self._said.get(agent) != found.says:
                self._said[agent] = found.says
                self._say(f"{agent}: {found.says or 'draining'}")
        return {agent for agent, found in states.items() if self._has_left(agent, found)}

    def _has_left(self, agent: str, found: State) -> bool:
        """Whether an agent is at rest for good: one that was started to account for a task may not have begun yet."""
        if found.condition is not Condition.GONE or agent not in self._started_at:
            return found.condition in _AT_REST
        is_late = time.monotonic() > self._started_at[agent] + BEGIN_SECONDS
        return is_late or not has_unfinished(self._state_dir, self._host, agent)


def has_unfinished(state_dir: Path, host: str, agent: str) -> bool:
    """Whether a run of this agent waits to be accounted for (docs/architecture.md, "The run directory")."""
    worker = f"{host}:{agent}"
    runs = state_dir.parent.glob(f"{state_dir.name}*/runs")  # an agent with another user has another directory
    return any(
        (read_json(claim) or {}).get("worker") == worker
        for claim in (found for folder in runs for found in folder.glob("*/claim.json"))
    )


def _to_start(change: Change, states: Mapping[str, State], result: Result) -> tuple[list[str], list[str]]:
    """Which agents to start and which to restart. One that an operator has masked is left alone."""
    start, restart = [], []
    for step in change.steps:
        condition = states[step.agent].condition
        if step.action in (Action.REMOVE, Action.REPLACE):
            continue
        if condition is Condition.MASKED:
            result.done[step.agent] = "masked: left alone"
        elif condition in _AT_REST:
            start.append(step.agent)
            result.done[step.agent] = "started"
        elif step.action is Action.KEEP:
            result.done[step.agent] = "unchanged"
        else:
            restart.append(step.agent)
            result.done[step.agent] = "restarted"
    return start, restart


def _note_ready(states: Mapping[str, State], expected: set[str], result: Result) -> None:
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
