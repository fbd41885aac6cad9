"""The plain reader says the same as pyhocon, or nothing."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import hocon
from agent.config.loading import REFERENCE
from agent.errors import ConfigError

FROM_THE_SERVERS_PAGE = """
api {
  # Somebody's workspace
  web_server: http://localhost:8080
  api_server: http://localhost:8008/
  files_server: https://files.example.com
  credentials {
    "access_key" = "5ZSR"
    "secret_key"  =  "abc+/= #{x}"
  }
}
agent.package_manager: { type: pip, system_site_packages = false  # why not
  extra_index_url: ["https://u:p@host/simple", ]
}
sdk { aws { s3 { key: "", secret: null } }, development { worker { ping_period_sec: 30.5 } } }
"""


@pytest.mark.parametrize(
    "text", [Path(REFERENCE).read_text(), FROM_THE_SERVERS_PAGE, "", "{ a: 1 }", "a.b: 1\na { c: 2 }"]
)
def test_plain_files_are_read_without_pyhocon_and_as_pyhocon_reads_them(text: str) -> None:
    assert hocon.read_plain(text) == hocon.read_with_pyhocon(text, source="test")


@pytest.mark.parametrize(
    "text",
    [
        "a: ${HOME}",
        'a: "x${HOME}"',
        'a: """x"""',
        'a: "\\n"',
        "a: b c",
        "a: 10 seconds",
        "a: 1 b: 2",
        "a += 1",
        'include "other.conf"',
        "a: yes",
        "a: True",
        "a: 007",
        'a: "x" "y"',
        "a: b//c",
        "a: b#c",
        "a: [1, 2",
        "a: {",
        "a",
        "a: }",
        '"a.b": 1',
    ],
)
def test_whatever_is_not_plain_is_left_to_pyhocon(text: str) -> None:
    with pytest.raises(hocon.NotPlain):
        hocon.read_plain(text)


AFTER_A_KEY = [
    "b",
    '"x"',
    "1",
    "-2.5",
    "//c",
    "# c",
    " ",
    ",",
    "{",
    "}",
    "[",
    "]",
    "\n",
    "http://h/p",
    "d: 2",
    "/",
    ".",
]


@pytest.mark.parametrize("first", [*AFTER_A_KEY, "null", "true", ":", "=", "~"])
def test_any_text_that_the_plain_reader_takes_means_the_same_to_pyhocon(first: str) -> None:
    for rest in product(AFTER_A_KEY, repeat=2):
        text = "a:" + first + "".join(rest)
        try:
            plain = hocon.read_plain(text)
        except hocon.NotPlain:
            continue
        assert plain == hocon.read_with_pyhocon(text, source="test"), text


KEYS = st.from_regex(r"[a-z][a-z0-9_-]{0,6}", fullmatch=True)
VALUES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abcXYZ019 _-.,:/@#{}[]=", max_size=12)
TREES = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, TREES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_json_is_hocon(tree: dict[str, object]) -> None:
    assert hocon.parse(json.dumps(tree), source="test") == tree


def test_escapes_of_json_are_understood() -> None:
    assert hocon.parse('{"a": "\\u00fc\\n"}', source="test") == {"a": "ü\n"}


def test_substitution_from_the_environment_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NAME", "from outside")
    assert hocon.parse("a: ${SOME_NAME}", source="test") == {"a": "from outside"}


def test_include_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "other.conf").write_text("b: 2")
    assert hocon.parse('a: 1\ninclude "other.conf"', source="test", folder=str(tmp_path)) == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["api {\n a: 1\n", "a: [1, 2\n", "a {\n}}\n", 'a: "no end\n'])
def test_file_that_does_not_parse_names_file_and_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.conf, line \d+: "):
        hocon.parse(text, source="x.conf")


def test_unknown_substitution_names_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^x\.conf: .*no_such_thing"):
        hocon.parse("a: ${no_such_thing}", source="x.conf")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("[a, b]", ["a", "b"]),
        ("{x: 1}", {"x": 1}),
        ("http://h:8008", "http://h:8008"),
        ("p[a", "p[a"),
        ("two words", "two words"),
    ],
)
def test_value_of_a_variable_is_hocon_or_else_itself(text: str, value: object) -> None:
    assert hocon.parse_value(text, source="X") == value


def test_merge_replaces_lists_and_merges_objects_and_changes_neither() -> None:
    below, above = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}
    assert hocon.merge(below, above) == {"a": {"b": 1, "c": [2]}, "d": {"e": 1}}
    assert below == {"a": {"b": 1, "c": [1]}, "d": 1}
