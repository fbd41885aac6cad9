"""Which Python a task gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import SetupFailed
from agent.packages import interpreter
from agent.packages.interpreter import choose, matches, own, requested_version
from agent.process.run import Commands
from agent.process.stop import StopSignal


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with StopSignal() as stop:
        yield Commands(environ={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, cwd=str(tmp_path), stop=stop)


def fake(folder: Path, name: str, version: str) -> Path:
    """A program that answers the probe like a Python of that version."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    answer = (
        f'{{"executable": "{path}", "version": "{version}", "implementation": "cpython", '
        '"abi": ".so", "platform": "linux", "prefix": "/usr"}'
    )
    path.write_text(f"#!/bin/sh\necho asked >> {folder}/log\necho '{answer}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("binary", "version"),
    [
        ("python3.10", "3.10"),
        ("/usr/bin/python3.9", "3.9"),
        ("python3", "3"),
        ("python", ""),
        ("python3.11.4", "3.11.4"),
        ("bash", ""),
        ("pythonw", ""),
        ("", ""),
    ],
)
def test_the_version_is_in_the_name(binary: str, version: str) -> None:
    assert requested_version(binary) == version


def test_versions_match_part_by_part() -> None:
    assert matches("3.10.13", "3.10")
    assert matches("3.10.13", "3")
    assert matches("3.10.13", "")
    assert not matches("3.10.13", "3.1")
    assert not matches("3.10.13", "3.10.1")


def test_this_interpreter_is_described_as_another_process_would_describe_it(commands: Commands, tmp_path: Path) -> None:
    asked = interpreter._Search(commands, str(tmp_path))._ask(sys.executable)
    assert asked == own()


@pytest.mark.parametrize("binary", ["python", "python3", f"python3.{sys.version_info[1]}"])
def test_the_agents_own_interpreter_needs_no_probe(commands: Commands, tmp_path: Path, binary: str) -> None:
    fake(tmp_path / "bin", "python3", "3.11.99")
    assert choose(binary, commands=commands, facts=str(tmp_path / "facts")).interpreter == own()
    assert not (tmp_path / "bin/log").exists()


def test_a_version_is_found_on_the_path(commands: Commands, tmp_path: Path) -> None:
    path = fake(tmp_path / "bin", "python3.99", "3.99.1")
    choice = choose("python3.99", commands=commands, facts=str(tmp_path / "facts"))
    assert (choice.interpreter.executable, choice.warning) == (str(path), "")


def test_a_program_that_lies_about_its_version_is_passed_over(commands: Commands, tmp_path: Path) -> None:
    fake(tmp_path / "bin", "python3.99", "3.98.0")
    choice = choose("python3.99", commands=commands, facts=str(tmp_path / "facts"))
    assert choice.interpreter == own()
    assert "Python 3.99 was asked for" in choice.warning


def test_a_missing_version_is_a_warning_unless_versions_are_ignored(commands: Commands, tmp_path: Path) -> None:
    choice = choose("python3.77", commands=commands, facts=str(tmp_path), ignore_version=True)
    assert (choice.interpreter, choice.warning) == (own(), "")


def test_an_absolute_path_is_used_where_it_exists(commands: Commands, tmp_path: Path) -> None:
    path = fake(tmp_path / "opt", "python", "3.12.9")
    assert choose(str(path), commands=commands, facts=str(tmp_path / "facts")).interpreter.version == "3.12.9"
    gone = choose("/nowhere/bin/python3", commands=commands, facts=str(tmp_path / "facts"))
    assert (gone.interpreter, gone.warning) == (own(), "")


def test_the_operators_interpreter_wins_and_must_exist(commands: Commands, tmp_path: Path) -> None:
    path = fake(tmp_path / "opt", "python", "3.12.9")
    chosen = choose("python3.99", commands=commands, facts=str(tmp_path / "facts"), python_binary=str(path))
    assert chosen.interpreter.executable == str(path)
    with pytest.raises(SetupFailed, match=r"agent\.python_binary"):
        choose("python3", commands=commands, facts=str(tmp_path), python_binary="/nowhere/python")


def test_an_interpreter_inside_a_virtual_environment_stands_for_its_base(commands: Commands, tmp_path: Path) -> None:
    found = choose(sys.executable, commands=commands, facts=str(tmp_path / "facts")).interpreter
    assert found.executable == own().executable
    assert found.prefix == sys.base_prefix


def test_facts_are_asked_once_until_the_program_changes(tmp_path: Path) -> None:
    program, facts, answers = tmp_path / "program", str(tmp_path / "facts"), iter("abc")
    program.write_text("1")
    assert [interpreter.remembered(facts, "x", str(program), lambda: next(answers)) for _ in range(3)] == ["a"] * 3
    program.write_text("22")
    assert interpreter.remembered(facts, "x", str(program), lambda: next(answers)) == "b"
    for name in os.listdir(facts):
        Path(facts, name).write_text("torn")
    assert interpreter.remembered(facts, "x", str(program), lambda: next(answers)) == "c"


def test_shims_are_asked_every_time(commands: Commands, tmp_path: Path) -> None:
    fake(tmp_path / "bin", "python3.99", "3.99.1")
    for _ in range(2):
        choose("python3.99", commands=commands, facts=str(tmp_path / "facts"))
    assert (tmp_path / "bin/log").read_text().count("asked") == 2


def test_free_threaded_builds_keep_their_packages_elsewhere() -> None:
    threaded = replace(own(), version="3.13.0", abi=".cpython-313t-x86_64-linux-gnu.so")
    assert threaded.site_packages == "lib/python3.13t/site-packages"
    assert own().site_packages == f"lib/python3.{sys.version_info[1]}/site-packages"
