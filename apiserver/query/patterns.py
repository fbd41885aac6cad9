"""Filters by regular expression.

A regular expression comes from a stranger: it is matched with a time limit, and the usual `^name$` never reaches the
engine, which is not even imported before the first pattern that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import errors
from .condition import Condition, needs
from .entity import Entity
from .paths import path_of, text_at

REGEX_BUDGET_SECONDS = 1.0
LONGEST_PATTERN = 10_000


def pattern_condition(name: str, pattern: str, entity: Entity) -> Condition:
    """A text field against a regular expression."""
    column = entity.column(name)
    literal = Literal.read(pattern)
    if literal is not None and literal.starts and literal.ends and column is not None:
        return Condition(sql=column == literal.text)
    matches = matcher(pattern)
    path = path_of(name)
    return Condition(test=lambda doc: matches(text_at(doc, path)), needs=needs(name))


@dataclass(frozen=True, slots=True)
class Literal:
    """A regular expression that only spells a text out, perhaps anchored."""

    text: str
    starts: bool
    ends: bool

    @classmethod
    def read(cls, pattern: str) -> Literal | None:
        """Recognise such an expression; None for a real one."""
        starts = pattern.startswith("^")
        body = pattern[1:] if starts else pattern
        ends = body.endswith("$") and not body.endswith(r"\$")
        body = body[:-1] if ends else body
        text: list[str] = []
        characters = iter(body)
        for character in characters:
            if character == "\\":
                escaped = next(characters, "")
                if not escaped or escaped.isalnum():
                    return None
                text.append(escaped)
            elif character in ".^$*+?{}[]|()":
                return None
            else:
                text.append(character)
        return cls("".join(text), starts, ends)

    def matches(self, value: str) -> bool:
        """As `search` would."""
        match self.starts, self.ends:
            case True, True:
                return value == self.text
            case True, False:
                return value.startswith(self.text)
            case False, True:
                return value.endswith(self.text)
        return self.text in value


def matcher(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A search for this regular expression that gives up, with 400/21, when it takes too long altogether."""
    literal = None if ignore_case else Literal.read(pattern)
    if literal is not None:
        return literal.matches
    import regex

    if len(pattern) > LONGEST_PATTERN:
        raise errors.BAD_REGEX("pattern is too long", length=len(pattern))
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise errors.BAD_REGEX(str(error), pattern=pattern) from None
    spent = 0.0

    def matches(value: str) -> bool:
        nonlocal spent
        started = time.perf_counter()
        try:
            found = compiled.search(value, timeout=max(REGEX_BUDGET_SECONDS - spent, 0.001), concurrent=True)
        except TimeoutError:
            raise errors.BAD_REGEX("pattern takes too long to match", pattern=pattern) from None
        spent += time.perf_counter() - started
        return found is not None

    return matches
