"""Whether a task that failed is to be tried again: its own policy, and how often it was tried already. Pure.

The policy is among a task's user properties (the section `properties` of its hyperparameters), which every ClearML
Server keeps, also over reset and clone, and which may be changed at any time. How often a task was tried again is in
its `runtime`, which a reset empties and a clone does not get.

    retry_on              infrastructure, 75, 130-137, SIGKILL     nothing: never
    retry_limit           3                                        0 to 100
    retry_delay_seconds   10                                       0 to 3600; doubled from one retry to the next
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from agent.models import Json, Task
from agent.runner.outcome import Verdict
from agent.states import TaskStatus

#: The key in the task's `runtime`.
COUNT = "_retries"
SECTION = "properties"
INFRASTRUCTURE = "infrastructure"
DEFAULT_LIMIT, MOST_RETRIES = 3, 100
DEFAULT_DELAY_SECONDS, LONGEST_FIRST_DELAY_SECONDS = 10.0, 3600.0
#: Doubling ends here, unless the first delay is already longer.
LONGEST_DELAY_SECONDS = 300.0
_CODES = r"(\d{1,3})(?:\s*-\s*(\d{1,3}))?"

T = TypeVar("T")


class PolicyUnreadable(Exception):
    """A property that cannot be understood; the text says which, and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is tried again, how often at most, and after how long.

    `codes` are exit codes as a shell knows them: 128 + n for a process that signal n has ended.
    """

    infrastructure: bool = False
    codes: frozenset[int] = frozenset()
    limit: int = DEFAULT_LIMIT
    delay_seconds: float = DEFAULT_DELAY_SECONDS

    def wants(self, verdict: Verdict) -> bool:
        """Whether a task that ended like this is one of those to be tried again, if there is a try left."""
        if verdict.status is not TaskStatus.FAILED:
            return False
        return (verdict.infrastructure and self.infrastructure) or not self.codes.isdisjoint(verdict.codes)

    def delay_before(self, number: int) -> float:
        """Seconds to wait before the retry of this number, from 1."""
        doubled = self.delay_seconds * 2.0 ** (number - 1)
        return min(doubled, max(LONGEST_DELAY_SECONDS, self.delay_seconds))


NEVER = Policy(limit=0)


def policy_of(task: Task) -> Policy:
    """The policy of a task; `NEVER` without one. Raises PolicyUnreadable."""
    if not (wanted := _property(task, "retry_on")):
        return NEVER
    infrastructure, codes = _causes(wanted)
    return Policy(
        infrastructure=infrastructure,
        codes=codes,
        limit=_number(task, "retry_limit", int, DEFAULT_LIMIT, most=MOST_RETRIES),
        delay_seconds=_number(
            task, "retry_delay_seconds", float, DEFAULT_DELAY_SECONDS, most=LONGEST_FIRST_DELAY_SECONDS
        ),
    )


def why_unreadable(task: Task) -> str:
    """A sentence about a policy that cannot be understood; empty where there is none, or one that can."""
    try:
        policy_of(task)
    except PolicyUnreadable as error:
        return f"This task is not tried again when it fails: {error}"
    return ""


def count_of(task: Task) -> int:
    """How often the task has been tried again since it was made or reset."""
    try:
        return max(0, int(task.runtime.get(COUNT) or 0))
    except (TypeError, ValueError):
        return 0


def counted(runtime: Mapping[str, Any], number: int) -> Json:
    """A task's `runtime` that says it is being tried again for the `number`th time."""
    return {**runtime, COUNT: number}


def decide(verdict: Verdict, task: Task, *, done: int, has_queue: bool) -> Verdict:
    """The verdict on a run of a task that was tried again `done` times before: as it is, or that it is queued again.

    `task` is looked at for its policy. A task that came from no queue cannot go back to one.
    """
    try:
        policy = policy_of(task)
    except PolicyUnreadable as error:
        failed = verdict.status is TaskStatus.FAILED
        return _with_remark(verdict, f"It is not tried again: {error}") if failed else verdict
    if not policy.wants(verdict):
        return verdict
    if not has_queue:
        return _with_remark(verdict, "It came from no queue, so its retry policy does not apply: it is run once.")
    if done >= policy.limit:
        remark = f"no retry is left ({done} of {policy.limit} done)"
        return _with_remark(replace(verdict, reason=f"{verdict.reason}; {remark}"), f"{remark.capitalize()}.")
    number, delay = done + 1, policy.delay_before(done + 1)
    remark = f"retry {number} of {policy.limit}"
    return replace(
        _with_remark(verdict, f"{remark.capitalize()} in {delay:g} s."),
        status=TaskStatus.QUEUED,
        reason=f"{remark} after {delay:g} s: {verdict.reason}",
        retry=number,
        delay_seconds=delay,
    )


def _with_remark(verdict: Verdict, remark: str) -> Verdict:
    return replace(verdict, notice=f"{verdict.notice.rstrip('.')}. {remark}")


def _property(task: Task, name: str) -> str:
    section = task.hyperparams.get(SECTION)
    entry = section.get(name) if isinstance(section, Mapping) else None
    value = entry.get("value") if isinstance(entry, Mapping) else entry
    return "" if value is None else str(value).strip()


def _causes(text: str) -> tuple[bool, frozenset[int]]:
    infrastructure, codes = False, set[int]()
    for word in filter(None, (word.strip() for word in text.strip("[]()").split(","))):
        if word.lower() == INFRASTRUCTURE:
            infrastructure = True
        else:
            codes |= _codes_of(word)
    return infrastructure, frozenset(codes)


def _codes_of(word: str) -> set[int]:
    number = signal.Signals.__members__.get(word.upper()) if word.upper().startswith("SIG") else None
    if number is not None:
        return {128 + number}
    match = re.fullmatch(_CODES, word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 255:
        raise PolicyUnreadable(
            f"the property retry_on of the task has {word!r}. It may have `{INFRASTRUCTURE}`, exit codes from 1 to "
            "255, ranges of them (130-137) and names of signals (SIGKILL), with commas between them."
        )
    return set(range(first, last + 1))


def _number(task: Task, name: str, parse: Callable[[str], T], default: T, *, most: float) -> T:
    text = _property(task, name)
    try:
        value = parse(text) if text else default
        if 0 <= float(value) <= most:  # type: ignore[arg-type]  # a number by now
            return value
    except ValueError:
        pass
    kind = "a whole number" if parse is int else "a number"
    raise PolicyUnreadable(f"the property {name} of the task is {text!r}. It may be {kind} from 0 to {most:g}.")
