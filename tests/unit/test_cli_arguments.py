"""How command lines are read: abbreviations, values in a row, files of arguments, refusals."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from agent import cli
from agent.cli.group import AgentCommand, Several, not_yet
from agent.errors import UsageError


@click.command(cls=AgentCommand)
@click.option("--queue", cls=Several, needs_value=True)
@click.option("--quiet", is_flag=True)
@click.option("--stop", cls=Several)
@click.option("--git-user")
@click.option("--git-pass")
@click.option("-O", "optimize", count=True)
@click.option("--detached", "-d", is_flag=True)
@not_yet("--docker")
@not_yet("--dynamic-gpus", is_switch=True)
def sample(**options: object) -> None:
    """A command with one option of each kind."""


def read(*arguments: str) -> dict[str, object]:
    with sample.make_context("sample", list(arguments)) as context:
        return {name: value for name, value in context.params.items() if value}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--queue", "a", "b", "-d"), {"queue": ("a", "b"), "detached": True}),
        (("--queue", "a", "--queue=b"), {"queue": ("a", "b")}),
        (("--que", "a"), {"queue": ("a",)}),
        (("--det", "--qui"), {"detached": True, "quiet": True}),
        (("--git-u", "me", "--git-p=--x"), {"git_user": "me", "git_pass": "--x"}),
        (("--git-user", "--quiet"), {"git_user": "--quiet"}),
        (("--stop",), {"stop": ("",)}),
        (("--stop", "a:0", "a:1", "--quiet"), {"stop": ("a:0", "a:1"), "quiet": True}),
        (("-OO",), {"optimize": 2}),
        (("-O", "-O"), {"optimize": 2}),
    ],
)
def test_arguments_are_read_as_clearml_agent_reads_them(arguments: tuple[str, ...], options: dict[str, object]) -> None:
    assert read(*arguments) == options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--q",), "--q may mean --queue or --quiet"),
        (("--git", "x"), "--git may mean --git-pass or --git-user"),
        (("--quiett",), "there is no option --quiett; did you mean --quiet?"),
        (("--queue",), "--queue needs at least one value"),
        (("--queue", "--quiet"), "--queue needs at least one value"),
        (("stray",), "stray"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        read(*arguments)


@pytest.mark.parametrize("arguments", [("--docker", "image", "args"), ("--docker",), ("--dynamic-gpus",), ("--dyn",)])
def test_option_of_a_later_version_says_so(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="is not available yet in this version"):
        read(*arguments)


def test_file_of_arguments_holds_one_a_line_and_may_name_another(tmp_path: Path) -> None:
    (tmp_path / "inner").write_text("--queue\nwith blanks\n")
    (tmp_path / "outer").write_text(f"daemon\n@{tmp_path}/inner\n")
    assert cli.with_argument_files([f"@{tmp_path}/outer", "x"]) == ["daemon", "--queue", "with blanks", "x"]


def test_file_of_arguments_that_names_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").write_text(f"@{tmp_path}/loop")
    with pytest.raises(UsageError, match="name each other"):
        cli.with_argument_files([f"@{tmp_path}/loop"])


def test_missing_file_of_arguments_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["@/nowhere"]) == 2
    assert "clearml_agent: ERROR: cannot read the file of arguments /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--debug", "list"], True),
        (["-d", "daemon"], True),
        (["--config-file", "-d", "daemon"], False),
        (["--config-file", "x", "--debug", "daemon"], True),
        (["daemon", "-d"], False),
        ([], False),
    ],
)
def test_debug_counts_only_before_the_command(arguments: list[str], wanted: bool) -> None:
    assert cli.wants_debug(arguments) is wanted
