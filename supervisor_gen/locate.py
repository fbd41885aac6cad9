"""On which line of a HOCON text each key and each list element stands, which no HOCON parser tells.

The text is scanned once, without judging it: the parser says what is wrong with it, if anything is. As in HOCON the
last one wins: a value that is replaced later is found where it was replaced, an object that is merged where it was last
added to. What comes from an include or a substitution is not in the text; it is found at the nearest thing around it
that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Key = str | int

_TOKEN = re.compile(
    r"""(?P<newline>\n)
    | (?P<comment>(?:\#|//)[^\n]*)
    | (?P<quoted>\"\"\".*?\"\"\"+|"(?:[^"\\\n]|\\.)*")
    | (?P<separator>\+=|[:=])
    | (?P<open>[{\[])
    | (?P<close>[}\]])
    | (?P<comma>,)
    | (?P<word>[a-zA-Z0-9.+-]{2,}://[^\s"{}\[\],\#]*|(?:\$\{[^}\n]*\}|(?<=[^\s:=,{}\[\]])//|[^\s"{}\[\],:=+\#/]|[+/](?![=/]))+|\S)
    """,
    re.VERBOSE | re.DOTALL,
)
_ELSEWHERE = ("url(", "package(")


class Lines:
    """The lines of one text by path, `("agents", 2, "gpu", "model")`. `includes` are files that the text includes."""

    def __init__(self, root: _Node, includes: Sequence[tuple[str, int]]) -> None:
        self._root = root
        self.includes = tuple(includes)

    def line_of(self, path: Sequence[Key]) -> int:
        """The line of what is at `path`, or of the nearest thing around it that the text itself has."""
        node = self._root
        for key in path:
            if key not in node.inner:
                break
            node = node.inner[key]
        return node.line

    def paths(self) -> Iterator[tuple[Key, ...]]:
        """Every path that the text itself has."""
        waiting: list[tuple[tuple[Key, ...], _Node]] = [((), self._root)]
        while waiting:
            path, node = waiting.pop()
            yield path
            waiting += [((*path, key), inner) for key, inner in node.inner.items()]


def lines_of(text: str) -> Lines:
    """Scan `text`."""
    scan = _Scan()
    line = 1
    for token in _TOKEN.finditer(text):
        scan.take(token.lastgroup or "", token[0], line)
        line += token[0].count("\n")
    return Lines(scan.root, scan.includes)


@dataclass(slots=True)
class _Node:
    """A value of the text: its line, and the keys or positions in it."""

    line: int
    inner: dict[Key, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class _Box:
    """An object or a list that is open, and what is being read in it.

    `key` are the parts of a key so far. `value` is what stands behind the key, or the element of a list, and `said` the
    kind of token that it began with. `is_broken`: a line has ended since the key, behind which only an object can come.
    """

    node: _Node
    is_list: bool = False
    key: list[str] = field(default_factory=list)
    key_line: int = 0
    is_broken: bool = False
    value: _Node | None = None
    is_added: bool = False
    said: str = ""

    def end(self) -> None:
        """The key or element is complete."""
        self.key, self.value, self.said, self.is_added, self.is_broken = [], None, "", False, False


class _Scan:
    """Where the scan stands: the boxes that are open, from the root inwards."""

    def __init__(self) -> None:
        self.root = _Node(1)
        self.includes: list[tuple[str, int]] = []
        self._open = [_Box(self.root)]

    def take(self, kind: str, text: str, line: int) -> None:
        """Take the next token."""
        box = self._open[-1]
        if kind == "newline":
            self._end_line(box)
        elif kind == "comma":
            box.end()
        elif kind == "close":
            self._open[1:] = self._open[1:-1]
        elif kind == "open":
            self._begin(box, text, line)
        elif kind == "separator" and not box.is_list and box.value is None:
            self._expect_value(box)
            box.is_added = text == "+="
        elif kind != "comment":
            self._take_word(box, kind, text, line)

    def _end_line(self, box: _Box) -> None:
        if box.said:
            box.end()
        box.is_broken = bool(box.key)

    def _take_word(self, box: _Box, kind: str, text: str, line: int) -> None:
        if box.is_list:
            self._element(box, line)
            box.said = box.said or kind
        elif box.value is None or box.said == "{":
            self._take_key(box, kind, text, line)
        elif not box.said:
            box.value.inner.clear()
            box.said = kind

    def _take_key(self, box: _Box, kind: str, text: str, line: int) -> None:
        if box.value is not None or box.is_broken:
            box.end()
        if not box.key:
            box.key, box.key_line = [""], line
        elif kind == "quoted" and box.key[0].startswith("include") and not box.key[0].endswith(_ELSEWHERE):
            self.includes.append((text[1:-1], line))
        first, *others = [text[1:-1]] if kind == "quoted" else text.split(".")
        box.key[-1] += first
        box.key += others

    def _expect_value(self, box: _Box) -> _Node:
        """The key is complete, and its value comes next."""
        node = box.node
        for name in box.key:
            node = node.inner.setdefault(name, _Node(box.key_line))
            node.line = box.key_line
        box.value, box.is_broken = node, False
        return node

    def _element(self, box: _Box, line: int) -> _Node:
        """The list element that begins here, or that goes on here on the line on which it began."""
        if box.value is None:
            box.value = box.node.inner[len(box.node.inner)] = _Node(line)
        return box.value

    def _begin(self, box: _Box, bracket: str, line: int) -> None:
        """An object or a list begins: a value, something added to one, or the braces around the whole text."""
        node = self._element(box, line) if box.is_list else box.value or self._expect_value(box)
        is_list = bracket == "["
        has_elements = 0 in node.inner
        if (is_list or has_elements) and not (box.said or box.is_added):
            node.inner.clear()
        box.said = box.said or bracket
        self._open.append(_Box(node, is_list))
