"""A text of requirements as pip knows it, written by people, by the SDK, and by earlier runs of an agent.

Each line names something to install (`requirement_line`) or is one of options. Those that would change how *everything
on the host* is installed are not passed on.

    -e <path or git URL>                  editable
    -r FILE, -c FILE                      read, relative to the file that says so
    --extra-index-url URL, -f PLACE       hold for this task only
    -i URL                                taken as one more extra index: which index is the default is the host's choice
    --pre, --no-binary X, --only-binary X passed on
    --no-index, --trusted-host, others    left out, with a warning

What goes into a command line or a variable of an installer is checked word by word first, so that no value of an option
is taken for another option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from agent.errors import SetupFailed
from agent.executor.places import Places, warning_of_absent
from agent.executor.requirement_line import LineReader
from agent.executor.wanted import Found

_COMMENT = r"(^|\s)#.*$"
#: One word of a line of options: `--name`, `--name=value`, `-n`, `-nvalue`.
_OPTION = r"(?s)(--[a-z0-9-]+|-[a-zA-Z])(?:\Z|=(.*)\Z|(?<=^-[a-zA-Z])(.+)\Z)"
_EDITABLE = r"(?s)(?:-e|--editable)(?:\s*=\s*|\s+|(?<=^-e)(?=\S))(.+)$"
_LONG = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url", "-f": "--find-links"}
_SWITCHES = frozenset({"--pre", "--no-index", "--prefer-binary", "--require-hashes", "--use-pep517"})
_WITH_VALUE = frozenset({*_LONG.values(), "--extra-index-url", "--no-binary", "--only-binary"})
_FORMATS = r":all:|:none:|[A-Za-z0-9][A-Za-z0-9._-]*(?:,[A-Za-z0-9][A-Za-z0-9._-]*)*"
#: What a line, and a file of requirements, may be at most; more is not one.
_LONGEST_LINE = 64 * 1024
_LONGEST_FILE = 16 * 1024 * 1024


def read_text(text: str, places: Places, found: Found) -> None:
    """Read what `text` says, and the files that it includes, into `found`."""
    _Reader(places, found, set()).read(text)


def read_file(path: str, root: str, found: Found) -> None:
    """Read a file of the repository in `root` into `found`; paths in it are relative to its own folder."""
    read_text(_text_of(path), Places(folders=(os.path.dirname(path),), root=root), found)


class _Reader:
    """Reads one text. `read` are the files that were included already."""

    def __init__(self, places: Places, found: Found, read: set[str]) -> None:
        self._places = places
        self._found = found
        self._read = read
        self._lines = LineReader(places, found)

    def read(self, text: str) -> None:
        for line in logical_lines(text):
            if line.startswith("-"):
                self._option(line)
            else:
                self._lines.read(line)

    def _option(self, line: str) -> None:
        """One line of options. As with pip several may stand in it, each with at most one word as its value."""
        if match := re.match(_EDITABLE, line):
            self._lines.read_editable(match[1], line)
            return
        words = _words_of(line)
        while words:
            word = words.pop(0)
            match = re.match(_OPTION, word)
            if match is None:
                raise SetupFailed(f"the requirements have {word!r} in a line of options: {line!r}")
            name, value = _LONG.get(match[1], match[1]), match[2] if match[2] is not None else match[3]
            if value is None and name not in _SWITCHES and words and not words[0].startswith("-"):
                value = words.pop(0)
            self._set(name, value or "", line)

    def _set(self, name: str, value: str, line: str) -> None:
        if name in _WITH_VALUE and (not value or value.startswith("-")):
            raise SetupFailed(f"the option {name} of the requirements has no value: {line!r}")
        match name:
            case "--requirement":
                self._include(value)
            case "--constraint":
                self._constrain(value)
            case "--extra-index-url" | "--index-url":
                self._found.extra_indexes.append(_place(value, name))
            case "--find-links":
                path = None if "://" in value else self._places.existing(value)
                self._found.find_links.append(_place(path or value, name))
            case "--no-binary" | "--only-binary":
                if not re.fullmatch(_FORMATS, value):
                    raise SetupFailed(f"the option {name} of the requirements takes names of packages, not {value!r}")
                self._found.flags += [name, value]
            case "--pre":
                self._found.flags.append(name)
            case _:
                self._warn(f"requirements: the option {name} is left out, it is not the task's to set")

    def _include(self, value: str) -> None:
        path = self._places.existing(value)
        if path is None:
            self._warn(warning_of_absent(value))
            return
        if path in self._read:  # once is enough, and files that include each other would never end
            return
        self._read.add(path)
        places = Places(folders=(os.path.dirname(path), self._places.root), root=self._places.root)
        _Reader(places, self._found, self._read).read(_text_of(path))

    def _constrain(self, value: str) -> None:
        """A file of constraints holds versions and nothing else: an option in it would be one of the installer's."""
        path = self._places.existing(value)
        if path is None:
            self._warn(warning_of_absent(value))
            return
        lines = logical_lines(_text_of(path))
        if any(line.startswith("-") for line in lines):
            self._warn(f"requirements: options in the constraints {os.path.basename(path)} are left out")
        self._found.constraints += [line for line in lines if not line.startswith("-")]

    def _warn(self, warning: str) -> None:
        self._found.warnings.append(warning)


def logical_lines(text: str) -> list[str]:
    """The lines of a requirements file that say something: continuations joined, comments and blanks gone."""
    return list(_logical(text))


def _logical(text: str) -> Iterator[str]:
    pending = ""
    for raw in text.lstrip("\ufeff").splitlines():
        line = pending + raw
        if len(line) > _LONGEST_LINE:
            raise SetupFailed(f"the requirements have a line of more than {_LONGEST_LINE} characters")
        if line.endswith("\\") and not raw.lstrip().startswith("#"):
            pending = line[:-1]
            continue
        pending = ""
        if line := re.sub(_COMMENT, "", line).strip():
            yield line
    if line := re.sub(_COMMENT, "", pending).strip():
        yield line


def _words_of(line: str) -> list[str]:
    from shlex import split

    try:
        return split(line)
    except ValueError as error:
        raise SetupFailed(f"the options {line!r} of the requirements cannot be split into words ({error})") from error


def _place(value: str, option: str) -> str:
    """A URL or a path that goes to an installer by a file or a variable, where blanks and commas would separate it."""
    if re.search(r"[\s\0]", value) or (option != "--find-links" and not re.match(r"(?:https?|file)://", value)):
        from agent.executor.remotes import hide_userinfo

        raise SetupFailed(f"the option {option} of the requirements does not name a place: {hide_userinfo(value)!r}")
    return value


def _text_of(path: str) -> str:
    if not os.path.isfile(path) or os.path.getsize(path) > _LONGEST_FILE:
        raise SetupFailed(f"the requirements name {os.path.basename(path)!r}, which is not a file of requirements")
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
