"""What has to be done about each agent, from the files before and after. Pure.

    keep     nothing of it changes                            it goes on running
    start    it is new                                        write, start
    restart  its settings change                              write, restart: a running task is left alone and adopted
    replace  its devices or its user change                   drain, then write and start
    remove   it is not wanted any more                        drain, then remove its files

A task keeps the fence that it was started in, so files of an agent that is to be replaced or removed stay as they are
until its task has ended: systemd would apply them to the running task at its next `daemon-reload`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from supervisor_gen.emitters.base import Emitter, without_header
from supervisor_gen.model import Files


class Action(StrEnum):
    """What is done about one agent."""

    KEEP = "keep"
    START = "start"
    RESTART = "restart"
    REPLACE = "replace"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One agent and what is done about it; `paths` are the files concerned."""

    agent: str
    action: Action
    paths: tuple[str, ...] = ()


def steps_for(before: Files, after: Files, emitter: Emitter) -> tuple[Step, ...]:
    """The steps for every agent that exists or is wanted, by name."""
    paths = before.keys() | after.keys()
    concerns_all = any(emitter.concerns_all(path) and path in before and _differ(before, after, path) for path in paths)
    steps = []
    for agent, own in sorted(_paths_by_agent(paths, emitter).items()):
        changed = tuple(path for path in own if _differ(before, after, path))
        has_other_fence = any(emitter.fence_in(path, before) != emitter.fence_in(path, after) for path in own)
        if not any(path in after for path in own):
            action = Action.REMOVE
        elif not any(path in before for path in own):
            action = Action.START
        elif has_other_fence:
            action = Action.REPLACE
        else:
            action = Action.RESTART if changed or concerns_all else Action.KEEP
        steps.append(Step(agent=agent, action=action, paths=changed))
    return tuple(steps)


def _differ(before: Files, after: Files, path: str) -> bool:
    """Whether a file changes in more than the line that tells where it was declared."""
    old, new = before.get(path), after.get(path)
    if old is None or new is None:
        return old is not new
    return (without_header(old.text), old.mode) != (without_header(new.text), new.mode)


def _paths_by_agent(paths: Iterable[str], emitter: Emitter) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        if agent := emitter.owner(path):
            found.setdefault(agent, []).append(path)
    return found
