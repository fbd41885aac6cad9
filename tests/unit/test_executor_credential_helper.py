"""Which credential git is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.executor import credential_helper

ENTRIES = [
    {"host": "a.com", "prefix": "", "user": "a", "password": "pa"},
    {"host": "", "prefix": "https://b.com/team/", "user": "b", "password": "pb"},
    {"host": "", "prefix": "", "user": "any", "password": "p"},
]


@pytest.mark.parametrize(
    ("query", "user"),
    [
        ({"protocol": "https", "host": "a.com"}, "a"),
        ({"protocol": "https", "host": "A.com:8443"}, "a"),
        ({"protocol": "https", "host": "b.com", "path": "team/x.git"}, "b"),
        ({"protocol": "https", "host": "b.com", "path": "other/x.git"}, "any"),
        ({"protocol": "https", "host": "c.com"}, "any"),
    ],
)
def test_the_first_entry_that_fits_answers(query: dict[str, str], user: str) -> None:
    chosen = credential_helper.choose(ENTRIES, query)
    assert chosen is not None
    assert chosen["user"] == user


def test_a_host_without_an_entry_gets_none() -> None:
    assert credential_helper.choose(ENTRIES[:2], {"protocol": "https", "host": "evil.com"}) is None


def ask(path: Path, action: str, query: str) -> str:
    script = credential_helper.__file__
    command = [sys.executable, "-I", "-S", script, str(path), action]
    return subprocess.run(command, input=query, capture_output=True, text=True, check=True).stdout


def test_it_speaks_the_protocol_of_git(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps([{"host": "", "prefix": "", "user": "u", "password": "a=b $x`y`"}]))
    assert ask(path, "get", "protocol=https\nhost=a.com\n\n") == "username=u\npassword=a=b $x`y`\n"


def test_it_stores_and_erases_nothing_and_answers_no_other_protocol(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(ENTRIES))
    assert ask(path, "erase", "protocol=https\nhost=a.com\n\n") == ""
    assert ask(path, "get", "protocol=ssh\nhost=a.com\n\n") == ""
