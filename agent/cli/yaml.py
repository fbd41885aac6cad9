"""Writing YAML, the half that printing a server's answer takes: what JSON can hold, in block style."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: A text that needs no quotes: it cannot be read as anything but a text, by YAML 1.1 either.
_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@-]+)*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "none"})


def as_yaml(value: Any) -> str:
    """`value` as a YAML document."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _entry(f"{_scalar(str(name))}:", inner)
    elif _is_list(value) and value:
        for inner in value:
            yield from _item(inner)
    else:
        yield _scalar(value)


def _entry(label: str, value: Any) -> Iterator[str]:
    """A key with its value: beside it, or below it and, for an object, further in."""
    if not value or not (isinstance(value, Mapping) or _is_list(value)):
        yield f"{label} {_scalar(value)}"
        return
    yield label
    indent = "  " if isinstance(value, Mapping) else ""
    yield from (indent + line for line in _lines(value))


def _item(value: Any) -> Iterator[str]:
    first = True
    for line in _lines(value):
        yield ("- " if first else "  ") + line
        first = False


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    """YAML has an escape for every character, where JSON writes two halves of those beyond U+FFFF."""
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
