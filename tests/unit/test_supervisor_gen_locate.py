"""Every key and element of a HOCON text is found on its line, however the text is laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import hocon
from supervisor_gen.locate import Key, lines_of

Path = tuple[Key, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True) | st.sampled_from(["a.b", "with blank", "{", "x:y"])
#: No empty text: pyhocon leaves it out of a list.
SCALARS = st.sampled_from(
    ["plain", "12", "true", "null", "two words", "x//y", "http://host/p", "20-23 SUN", "50%", '"x" y', '"quoted"']
) | st.sampled_from(['"} ] # // : ="', '"a \\" b"', '"""three\n  } { " lines\n"""'])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
NOISE = st.sampled_from(["", "\n", "\n\n", " ", "\t\n", '\n# a } { comment "\n', "\n  // another: [ one,\n"])
BREAKS = st.sampled_from(["\n", ",", ", ", ",\n", " # why\n", "\n\n,\n", "\n// } \n"])


class Writer:
    """Writes a document as HOCON, and notes which line each path got."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def write(self, text: str) -> None:
        self.text += text

    def fields(self, value: dict[str, Any], path: Path) -> None:
        for name, inner in value.items():
            self.write(self._draw(NOISE))
            self.key(name, inner, path)
            self.write(self._draw(BREAKS))
        self.write(self._draw(NOISE))

    def key(self, name: str, value: Any, path: Path) -> None:
        path = (*path, name)
        self.note(path)
        is_plain = name.isidentifier() and self._draw(st.booleans())
        self.write(name if is_plain else f'"{name}"')
        if is_plain and isinstance(value, dict) and len(value) == 1:
            ((inner, within),) = value.items()
            if inner.isidentifier():  # a { b: 1 } as a.b: 1
                self.write(f".{inner}")
                self.note((*path, inner))
                value, path = within, (*path, inner)
        joints = [": ", "=", " : ", ":\n ", *([" ", "", "\n", " =\n"] if isinstance(value, dict) else [])]
        self.write(self._draw(st.sampled_from(joints)))
        self.value(value, path)

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self.write("{")
            self.fields(value, path)
            self.write("}")
        elif isinstance(value, list):
            self.write("[")
            for position, inner in enumerate(value):
                self.write(self._draw(NOISE))
                self.note((*path, position))
                self.value(inner, (*path, position))
                self.write(self._draw(BREAKS))
            self.write("]")
        else:
            self.write(value)

    def note(self, path: Path) -> None:
        self.lines[path] = self.text.count("\n") + 1


@st.composite
def documents(draw: Draw) -> tuple[str, dict[Path, int]]:
    writer = Writer(draw)
    value = draw(st.dictionaries(KEYS, VALUES, max_size=4))
    has_braces = draw(st.booleans())
    writer.write(draw(NOISE) + ("{" if has_braces else ""))
    writer.fields(value, ())
    writer.write("}" if has_braces else "")
    return writer.text, writer.lines


@given(documents())
@settings(max_examples=300, deadline=None)
def test_every_path_of_a_document_in_any_layout_is_found_on_its_line(document: tuple[str, dict[Path, int]]) -> None:
    text, expected = document
    lines = lines_of(text)
    assert {path: lines.line_of(path) for path in lines.paths() if path} == expected


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, within in inner:
        yield from _paths(within, (*path, key))


@given(documents())
@settings(max_examples=60, deadline=None)
def test_the_scan_finds_exactly_the_paths_that_the_parser_finds(document: tuple[str, dict[Path, int]]) -> None:
    text, _ = document
    assert set(lines_of(text).paths()) == set(_paths(hocon.parse(text, source="test")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", {("a",): 3, ("b",): 2}),
        ("a { b: 1 }\n\na.c: 2", {("a",): 3, ("a", "b"): 1, ("a", "c"): 3}),
        ("a { b: 1 }\na: 2\na { c: 1 }", {("a",): 3, ("a", "c"): 3}),
        ("a: [1\n2, 3]\na: [4]", {("a",): 3, ("a", 0): 3}),
        ("a: [1]\na += [\n2]", {("a",): 2, ("a", 0): 1, ("a", 1): 3}),
        ("a: [1, 2]\na { b: 1 }", {("a",): 2, ("a", "b"): 2}),
        ("a: [1] [\n2]", {("a",): 1, ("a", 0): 1, ("a", 1): 2}),
        ("a: [{b: 1} {\nc: 2}]", {("a",): 1, ("a", 0): 1, ("a", 0, "b"): 1, ("a", 0, "c"): 2}),
        ("a {} b: 1", {("a",): 1, ("b",): 1}),
        ("a: ${x} {\nb: 1}\nc: ${?y}", {("a",): 1, ("a", "b"): 2, ("c",): 3}),
        ('include "x"\na: 1', {("a",): 2}),
        ("a: //c\n1\nb: 2", {("a",): 1, ("b",): 3}),
        ("a: 1\r\nb: 2\r\n", {("a",): 1, ("b",): 2}),
    ],
)
def test_the_last_one_wins_as_in_hocon(text: str, expected: dict[Path, int]) -> None:
    lines = lines_of(text)
    assert {path: lines.line_of(path) for path in lines.paths() if path} == expected


def test_what_the_text_does_not_have_is_found_at_the_nearest_thing_around_it() -> None:
    lines = lines_of("\na {\n  b: ${c}\n}")
    assert lines.line_of(("a", "b", 3, "d")) == 3
    assert lines.line_of(("a", "x")) == 2
    assert lines.line_of(("x",)) == 1


def test_included_files_are_known_with_their_lines() -> None:
    text = (
        'include "a"\nb { include required(file("c"))\n}\n# include "d"\ne: "include \\"f\\""\ninclude url("http://x")'
    )
    assert lines_of(text).includes == (("a", 1), ("c", 2))


@given(st.text('ab.\n{}[]:=+,"#/$ \\', max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_text_stops_the_scan(text: str) -> None:
    lines = lines_of(text)
    assert all(1 <= lines.line_of(path) <= text.count("\n") + 1 for path in lines.paths())
