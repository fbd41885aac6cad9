"""Makes docs/configuration.md out of `reference.conf`: `python -m agent.config.document > docs/configuration.md`.

The comment above a key is what the page says of it. A test compares the page with what this prints.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from agent.config import hocon
from agent.config.loading import REFERENCE, read_reference

_SECTION = re.compile(r"^(\w+) \{$")
_KEY = re.compile(r"^(\w+)(?:: .*| \{\})$")
_ENV = re.compile(r"\s*\[env: ([A-Z0-9_, ]+)\]")
_NOT_YET = "[not acted on yet]"

_INTRODUCTION = """\
# Configuration

<!-- Made from agent/config/reference.conf by `python -m agent.config.document`; edit that file. -->

A configuration file holds only what differs from the defaults below. It is written in HOCON, as `clearml.conf` is: JSON
with comments, `key: value` or `key = value`, dotted keys, `${VARIABLE}` and `include`. Files of `clearml-agent` work as
they are.

## Where it comes from

Weakest first:

1. the defaults on this page;
2. the folder named by `CLEARML_CONFIG_PATH`: each `*.conf` file in it is the section it is named after;
3. `~/trains.conf`, then `~/clearml.conf`; or, instead of both, the file named by `clearml-agent --config-file` or
   `CLEARML_CONFIG_FILE`;
4. variables `CLEARML_AGENT__SECTION__KEY`, for any key of any section, with a value in HOCON:
   `CLEARML_AGENT__AGENT__VENVS_CACHE__MAX_ENTRIES=20`;
5. the variables named beside a key below.

An empty variable counts as unset. Switches may be written as yes/no, true/false, on/off, y/n, t/f or 1/0. In paths `~`
and `$VARIABLE` are replaced. There is no built-in server and there are no built-in credentials.

A key that the agent does not know is named in a warning and otherwise left alone. A value of the wrong kind, or a file
that cannot be read, ends the command with exit code 3 and names the file and the key. `clearml-agent config` shows what
counts in the end, with secrets masked. Keep files with secrets at mode 0600.
"""

_FURTHER = """\
## Accepted, without effect in this version

Files that set these keep working. Containers, working hours, conda and poetry are among them.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key or a section of `reference.conf` with its comment. `default` is None for a section."""

    key: str
    default: str | None
    text: str
    variables: tuple[str, ...]
    is_acted_on: bool


def entries_of(source: str) -> Iterator[Entry]:
    """The keys and sections of a file in the form of `reference.conf`, in order."""
    path: list[str] = []
    comment: list[str] = []
    defaults = hocon.read_plain(source)
    for line in (line.strip() for line in source.splitlines()):
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            continue
        if line == "}":
            path.pop()
        elif found := _SECTION.match(line):
            path.append(found[1])
            yield _entry(".".join(path), None, comment)
        elif found := _KEY.match(line):
            key = ".".join([*path, found[1]])
            yield _entry(key, _shown(_at(defaults, key)), comment)
        comment = []


def page() -> str:
    """The whole of docs/configuration.md."""
    with open(REFERENCE, encoding="utf-8") as file:
        entries = list(entries_of(file.read()))
    parts = [_INTRODUCTION]
    for section in read_reference():
        heading = next(entry for entry in entries if entry.key == section)
        parts.append(f"## `{section}`\n\n{heading.text}\n")
        parts.extend(_tables([entry for entry in entries if entry.key.startswith(f"{section}.")]))
    parts.append(_FURTHER + _list_of([entry.key for entry in entries if not entry.is_acted_on]))
    return "\n".join(parts)


def _entry(key: str, default: str | None, comment: list[str]) -> Entry:
    text = " ".join(comment)
    variables = tuple(name.strip() for found in _ENV.findall(text) for name in found.split(","))
    is_acted_on = _NOT_YET not in text
    text = _ENV.sub("", text).replace(_NOT_YET, "").strip()
    return Entry(key=key, default=default, text=text, variables=variables, is_acted_on=is_acted_on)


def _tables(entries: list[Entry]) -> Iterator[str]:
    """One table per group of keys that belong together, introduced by the group's own comment."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.default is not None and entry.is_acted_on:
            groups.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    about = {entry.key: entry.text for entry in entries if entry.default is None}
    for group, members in groups.items():
        if "." in group:
            yield f"### `{group}`\n" + (f"\n{about[group]}\n" if about.get(group) else "")
        rows = ["| key | default | |", "|---|---|---|", *(_row(entry) for entry in members)]
        yield "\n".join(rows) + "\n"


def _row(entry: Entry) -> str:
    text = entry.text
    if entry.variables:
        text += (" " if text else "") + "Variables: " + ", ".join(f"`{name}`" for name in entry.variables) + "."
    default = f"`{entry.default}`".replace("|", "\\|") if entry.default else ""
    return f"| `{entry.key}` | {default} | {text.replace('|', chr(92) + '|')} |"


def _list_of(keys: list[str]) -> str:
    lines, line = [], ""
    for word in (f"`{key}`" + ("," if key != keys[-1] else ".") for key in keys):
        if line and len(line) + len(word) >= 120:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return "\n".join([*lines, line]) + "\n"


def _at(tree: object, key: str) -> object:
    for name in key.split("."):
        tree = tree[name] if isinstance(tree, dict) else None
    return tree


def _shown(value: object) -> str:
    return "" if value in ("", None) else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(page())
