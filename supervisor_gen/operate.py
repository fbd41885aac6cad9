"""Taking agents out of service and back, and how they are: what `drain`, `resume` and `status` do.

Like `apply`, all of it may be interrupted at any point and run again. Others are kept from changing files only while
ours are written; while agents are waited for, an `apply` may come and go.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from supervisor_gen import holds, state
from supervisor_gen.apply import LOOK_SECONDS, Result, note_ready
from supervisor_gen.drain import BEGIN_SECONDS, Drain, Say, unfinished
from supervisor_gen.holds import Hold
from supervisor_gen.roster import Gpu, Roster
from supervisor_gen.supervisors.base import AT_REST, Condition, State, Supervisor

#: How long somebody else may be at work on our files.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A host, its agents, and who supervises them: nobody below a root, where only holds are written and removed."""

    root: Path
    state_dir: Path
    roster: Roster
    supervisor: Supervisor | None
    say: Say

    def states(self, names: Iterable[str]) -> Mapping[str, State]:
        return self.supervisor.states(sorted(names)) if self.supervisor else {}

    def tasks_of(self, agent: str) -> tuple[str, ...]:
        return unfinished(self.state_dir, self.roster.host, agent)


# How agents are


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How one agent is. `state` is None where nobody supervises it; `tasks` are those not accounted for yet."""

    worker: str
    state: State | None
    held: Hold | None
    gpus: tuple[Gpu, ...] = ()
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    version: str = ""

    @property
    def has_left(self) -> bool:
        """Whether nothing of it runs, and no task of it waits for it."""
        return not self.tasks and (self.state is None or self.state.condition in AT_REST)

    def to_json(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "condition": self.state.condition.value if self.state else None,
            "says": self.state.says if self.state else "",
            "held": asdict(self.held) if self.held else None,
            "gpus": [{"index": gpu.index, "uuid": gpu.uuid, "model": gpu.model} for gpu in self.gpus],
            "queues": list(self.queues),
            "tasks": list(self.tasks),
            "version": self.version or None,
        }


def still_running(found: Mapping[str, Status]) -> Iterator[tuple[str, Status]]:
    """Those that have not left."""
    yield from ((name, status) for name, status in found.items() if not status.has_left)


def statuses(scene: Scene, names: Sequence[str]) -> dict[str, Status]:
    """How these agents are, by name."""
    held, states, roster = holds.read(scene.root), scene.states(names), scene.roster
    return {
        name: Status(
            worker=f"{roster.host}:{name}",
            state=states.get(name),
            held=held.get(name),
            gpus=roster.gpus[name],
            queues=roster.written[name].queues,
            tasks=scene.tasks_of(name),
            version=roster.written[name].version,
        )
        for name in names
    }


# Out of service


def drain(scene: Scene, names: Sequence[str], *, hold: Hold, seconds: float | None) -> frozenset[str]:
    """Hold agents, ask them to finish their tasks and leave, and wait for that. Returns those not held before.

    A hold that is there stays as it is.
    """
    with state.locked(scene.root, patience_seconds=PATIENCE_SECONDS):
        new = frozenset(names) - holds.read(scene.root).keys()
        holds.hold(scene.root, dict.fromkeys(sorted(new), hold))
    if scene.supervisor:
        draining = Drain(scene.supervisor, scene.roster.host, scene.state_dir, scene.say)
        draining.ask(names)
        _wait(scene, draining, set(names), seconds=seconds)
    return new


def _wait(scene: Scene, draining: Drain, waiting: set[str], *, seconds: float | None) -> None:
    """Until all have left. One that is at rest with a task left behind is about to be started again, by its supervisor
    or by us, to account for it; it is given up when that does not come about.
    """
    began = time.monotonic()
    stuck: dict[str, float] = {}
    while True:
        ended, now = draining.ended(waiting), time.monotonic()
        stuck = {agent: stuck.get(agent, now) for agent in ended if scene.tasks_of(agent)}
        given_up = {agent for agent, since in stuck.items() if now > since + BEGIN_SECONDS}
        waiting -= (ended - stuck.keys()) | given_up
        if not waiting or (seconds is not None and now >= began + seconds):
            return
        time.sleep(LOOK_SECONDS)


# Back in service


@dataclass(slots=True)
class Resumed(Result):
    """What became of the agents; `changed` are those that were held, or at rest; `starting` are not ready yet."""

    changed: set[str] = field(default_factory=set)
    starting: set[str] = field(default_factory=set)


def resume(scene: Scene, names: Sequence[str], *, waits: bool, ready_seconds: float) -> Resumed:
    """Hold agents no longer, and start those that are at rest.

    A request to drain cannot be taken back: an agent that still drains has to leave, and is held until then, so that
    this can be interrupted. Without `waits` it is let go of, and whoever comes next starts it.
    """
    result = Resumed()
    held, states = holds.read(scene.root), scene.states(names)
    draining = {name for name, found in states.items() if _drains(found, is_held=name in held)}
    _release(scene, frozenset(names) - (draining if waits else frozenset()), result)
    if scene.supervisor is None:
        result.done = {name: "resumed" if name in result.changed else "unchanged" for name in names}
        return result
    for name in sorted(draining):
        result.done[name] = "resumed" if waits else "released: the next resume or apply starts it when it has left"
    _start(scene.supervisor, names, states, result)
    if not waits:
        result.waiting |= {name: states[name].says or "draining" for name in draining}
    _see_up(scene, scene.supervisor, draining if waits else set(), result, ready_seconds=ready_seconds)
    return result


def _drains(found: State, *, is_held: bool) -> bool:
    return found.condition not in AT_REST and (is_held or found.says.startswith("draining"))


def _release(scene: Scene, names: Collection[str], result: Resumed) -> None:
    with state.locked(scene.root, patience_seconds=PATIENCE_SECONDS):
        result.changed |= holds.release(scene.root, names)


def _start(supervisor: Supervisor, names: Sequence[str], states: Mapping[str, State], result: Resumed) -> None:
    start = []
    for name in names:
        condition = states[name].condition
        if condition is Condition.MASKED:
            result.done[name] = "masked: left alone"
        elif condition in AT_REST:
            result.done[name] = "resumed" if name in result.changed else "started"
            start.append(name)
        else:
            result.done.setdefault(name, "unchanged")
    supervisor.start(start)
    result.changed |= {*start}
    result.starting |= {*start}


def _see_up(scene: Scene, supervisor: Supervisor, draining: set[str], result: Resumed, *, ready_seconds: float) -> None:
    """Start those that drain when they have left, and see that all that were started come up."""
    drained = Drain(supervisor, scene.roster.host, scene.state_dir, scene.say)
    ready_from = time.monotonic()
    while True:
        if ended := drained.ended(draining):
            draining -= ended
            _release(scene, ended, result)
            supervisor.start(sorted(ended))
            result.changed |= ended
            result.starting |= ended
            ready_from = time.monotonic()
        note_ready(scene.states(result.starting), result.starting, result)
        is_in_time = time.monotonic() < ready_from + ready_seconds
        if not draining and not (result.starting and is_in_time):
            break
        time.sleep(LOOK_SECONDS)
    for name, found in scene.states(result.starting).items():
        result.waiting[name] = found.says or "starting"
