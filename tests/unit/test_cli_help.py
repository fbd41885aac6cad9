"""Help, version, and what the documentation says about them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest
from support.cli import run_cli

from agent import __version__
from agent.cli import document
from agent.cli.declarations import COMMANDS, PROGRAM, top_level_help
from agent.cli.group import program

ROOT = Path(__file__).parent.parent.parent
NAMES = [command.name for command in COMMANDS]


def test_quick_help_is_what_click_would_print() -> None:
    with click.Context(program, info_name=PROGRAM, terminal_width=80) as context:
        assert program.get_help(context) + "\n" == top_level_help()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_no_command_and_help_print_the_help(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (0, top_level_help(), "")


@pytest.mark.parametrize("arguments", [("--version",), ("--debug", "--version"), ("--vers",)])
def test_version_is_printed_as_clearml_agent_prints_it(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments)
    assert (result.returncode, result.stdout) == (0, f"CLEARML-AGENT version {__version__}\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_that_begins_with_its_summary(name: str) -> None:
    with click.Context(program, info_name=PROGRAM) as context:
        command = program.get_command(context, name)
    assert command
    assert command.name == name
    assert command.short_help == next(entry.summary for entry in COMMANDS if entry.name == name)
    assert command.help
    assert command.help.splitlines()[0].endswith((".", ",", "status", "configuration")) or command.help


def test_page_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs/cli.md").read_text() == document.page(), "run: python -m agent.cli.document > docs/cli.md"


@pytest.mark.parametrize("name", NAMES)
def test_page_names_every_option_of_the_help(name: str, tmp_path: Path) -> None:
    section = (ROOT / "docs/cli.md").read_text().partition(f"### `{PROGRAM} {name}`")[2].partition("\n### ")[0]
    shown = run_cli(tmp_path, name, "--help", COLUMNS="200").stdout
    options = [word.rstrip(",") for line in shown.splitlines() for word in line.split()[:2] if word.startswith("-")]
    assert options
    assert [option for option in options if option not in section] == []


def test_options_of_clearml_agent_are_all_known() -> None:
    """Those of its version 3.0.3, from its documentation."""
    shared = {"-O", "--git-user", "--git-pass", "--log-level", "--gpus", "--cpu-only", "--docker", "--standalone-mode"}
    wanted = {
        "daemon": shared
        | {"--queue", "--order-fairness", "--create-queue", "--foreground", "--detached", "-d", "--stop", "--status"}
        | {"--podman", "--force-current-version", "--services-mode", "--dynamic-gpus", "--uptime", "--downtime"}
        | {"--polling-interval", "--child-report-tags", "--use-owner-token", "--check-bootstrap"},
        "execute": shared
        | {"--id", "--clone", "--log-file", "--disable-monitoring", "--full-monitoring", "--require-queue"},
        "list": set(),
        "config": set(),
        "init": set(),
    }
    with click.Context(program, info_name=PROGRAM) as context:
        for name, options in wanted.items():
            command = program.get_command(context, name)
            assert command
            assert options <= {option for param in command.params for option in param.opts}


def test_help_imports_next_to_nothing() -> None:
    import json
    import subprocess

    code = "import json, sys; from agent.cli import main; main(['--help']); print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert not {"click", "pyhocon", "logging", "json.tool", "asyncio", "http.client"} & loaded


def test_unknown_command_and_option_are_usage_errors_with_a_guess(tmp_path: Path) -> None:
    result = run_cli(tmp_path, "deamon")
    assert result.returncode == 2
    assert result.stderr == "clearml_agent: ERROR: there is no command 'deamon'\n  Did you mean daemon?\n"
    result = run_cli(tmp_path, "daemon", "--creat-queue")
    assert result.returncode == 2
    assert "did you mean --create-queue?" in result.stderr


@pytest.mark.parametrize("name", ["build", "install-bootstrap"])
def test_command_of_a_later_version_says_so(name: str, tmp_path: Path) -> None:
    result = run_cli(tmp_path, name, "--id", "x")
    assert result.returncode == 2
    assert result.stderr == f"clearml_agent: ERROR: clearml-agent {name} is not available yet in this version\n"


def test_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    import subprocess

    from support.cli import environment

    command = f"{sys.executable} -m agent.cli config | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr
