"""Every state that a model can get into: the shortest way to one that breaks a guarantee, or to one without way out."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import NamedTuple

from model.protocol import Rules, State, broken, is_fair, is_settled, steps


class Explored(NamedTuple):
    """What was found: `labels` of all steps, `fault` and its shortest `trace` (empty where all is well)."""

    states: int
    labels: frozenset[str]
    fault: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n  ".join((f"{self.fault or 'no fault'} ({self.states} states)", *self.trace))


Came = dict[State, tuple[State, str] | None]


@cache
def explore(first: State, rules: Rules) -> Explored:
    """Breadth first, so that the first fault found has a shortest trace."""
    came: Came = {first: None}
    before: dict[State, list[State]] = defaultdict(list)
    labels: set[str] = set()
    level = [first]
    while level:
        following: list[State] = []
        for state in level:
            if fault := broken(state, rules):
                return Explored(len(came), frozenset(labels), fault, _trace(came, state))
            for label, after in steps(state, rules):
                labels.add(label)
                if after not in came:
                    came[after] = (state, label)
                    following.append(after)
                if is_fair(label):
                    before[after].append(state)
        level = following
    stuck = _stuck(came, before)
    if stuck is None:
        return Explored(len(came), frozenset(labels), "", ())
    return Explored(len(came), frozenset(labels), "cannot come to an end", _trace(came, stuck))


def _trace(came: Came, state: State) -> tuple[str, ...]:
    labels: list[str] = []
    while (step := came[state]) is not None:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))


def _stuck(came: Came, before: dict[State, list[State]]) -> State | None:
    """A state from which fair steps alone do not lead to one where nothing is left to do."""
    ends = [state for state in came if is_settled(state)]
    reaching = set(ends)
    while ends:
        for earlier in before[ends.pop()]:
            if earlier not in reaching:
                reaching.add(earlier)
                ends.append(earlier)
    return next((state for state in came if state not in reaching), None)
