"""Values that others have written (a server's reply, a file that a power failure has torn) as what they ought to be.

Two attitudes, and every reader chooses one on purpose. The functions that are named after a type are lenient: what is
something else counts as nothing. `check_types` and whoever raises `agent.errors.BadTask` are strict: there a wrong type
means that the whole is not to be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

#: What a number of ours may be at most; anything beyond is a mistake, and `int` of a longer text is refused by Python.
MOST_DIGITS = 15
#: What can be in no path, argument or variable of a process: NUL, and halves of characters.
UNFIT = re.compile("[\0\ud800-\udfff]")

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "tuple[str, ...]": (tuple,),
    "Mapping[str, float]": (dict,),
}


def mapping(value: object) -> Mapping[str, Any]:
    """An object; empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list, without what else is in it."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list, without what else is in it."""
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list | tuple) else ()


def text(value: object) -> str:
    """A text, or a whole number as one; empty for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and _is_small(value) else ""


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if _is_small(value) else None


def whole(value: object) -> int | None:
    """A whole number of ordinary size, also where it was written as a text; None for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS else None
    return value if isinstance(value, int) and not isinstance(value, bool) and _is_small(value) else None


def _is_small(value: float) -> bool:
    """Comparing is what works for numbers of any size, and what infinity and NaN fail."""
    return -(10**18) < value < 10**18


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        (str, "a text"),
        ((int, float), "a number"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), "missing")


def is_deeper(value: object, deepest: int) -> bool:
    """Whether lists and objects are nested in each other more than `deepest` times."""
    level = [[value]]
    for _ in range(deepest + 1):
        found = [inner for outer in level for inner in outer if isinstance(inner, Mapping | list)]
        if not found:
            return False
        level = [list(inner.values()) if isinstance(inner, Mapping) else inner for inner in found]
    return True


def shown(text: str) -> str:
    """What others have named, for a line that people read: nothing that breaks it or that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def check_types(value: Any) -> None:
    """ValueError where a field of a dataclass, read from JSON, is not of the simple type that it is declared with."""
    for field in fields(value):
        if not _is_of(getattr(value, field.name), str(field.type)):
            raise ValueError(f"{field.name} is {kind_of(getattr(value, field.name))}")


def _is_of(value: object, declared: str) -> bool:
    kinds = _KINDS.get(declared)
    if kinds is None:
        return True
    if isinstance(value, tuple):
        return tuple in kinds and value == texts(value)
    return isinstance(value, kinds) and isinstance(value, bool) == (bool in kinds)
