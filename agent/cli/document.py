"""Makes docs/cli.md out of the commands themselves: `python -m agent.cli.document > docs/cli.md`. A test compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc

import click

from agent import errors
from agent.cli.declarations import COMMANDS, NOT_YET, OPTIONS, PROGRAM
from agent.cli.group import program

_INTRODUCTION = f"""\
# Command line

<!-- Made from the commands by `python -m agent.cli.document`; edit them in agent/cli/. -->

`{PROGRAM}` takes the command lines of ClearML's `clearml-agent`. Long options may be shortened to any unique beginning
(`--det` for `--detached`). An argument `@FILE` stands for the lines of that file, each of which is one argument.
Options that take several values take them in a row: `--queue first second`.

Results go to standard output, everything else to standard error. An error is one line, `clearml_agent: ERROR: …`, and
perhaps a second one that says what to try.
"""


def page() -> str:
    """The whole of docs/cli.md."""
    parts = [_INTRODUCTION, "## Before the command\n", _table(_top_level()), "## Commands\n"]
    with click.Context(program, info_name=PROGRAM) as context:
        for name in (command.name for command in COMMANDS):
            command = program.get_command(context, name)
            if command is not None:
                parts += [_command(one, above) for one, above in _with_those_below(command, context)]
    parts += [_exit_codes(), _missing()]
    return "\n".join(parts)


def _with_those_below(command: click.Command, parent: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and, if it is a group, what is in it, each with the context of what stands before it."""
    yield command, parent
    if isinstance(command, click.Group):
        with click.Context(command, info_name=command.name, parent=parent) as context:
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                if below is not None:
                    yield below, context


def unavailable(command: click.Command) -> list[str]:
    """The options that a command knows by name only."""
    return [param.opts[0] for param in command.params if isinstance(param, click.Option) and param.hidden]


def _top_level() -> Iterator[tuple[str, str]]:
    return ((option.usage, option.summary) for option in OPTIONS)


def _command(command: click.Command, parent: click.Context) -> str:
    with click.Context(command, info_name=command.name, parent=parent, **command.context_settings) as context:
        rows = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
        path = context.command_path
    text = f"### `{path}`\n\n{cleandoc(command.help or '')}\n\n{_table(iter(rows))}"
    if hidden := unavailable(command):
        text += f"\nNot available yet in this version: {', '.join(f'`{name}`' for name in hidden)}.\n"
    return text


def _table(rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| `{_cell(usage)}` | {_cell(text)} |" for usage, text in rows]
    return "\n".join(["| option | |", "|---|---|", *lines]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _exit_codes() -> str:
    rows: dict[int, list[str]] = {0: ["success"], 1: ["any other error"]}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.AgentError) and vars(error).get("exit_code", 1) != 1:
            rows.setdefault(error.exit_code, []).append(_cell(error.__doc__ or "").rstrip("."))
    rows[errors.INFRASTRUCTURE_EXIT_CODE] = [
        f"`{PROGRAM} execute`: the infrastructure of the task has failed ([retries](retries.md)), and not its own code"
    ]
    lines = [f"| {code} | {'; '.join(texts)} |" for code, texts in sorted(rows.items())]
    note = f"\n`{PROGRAM} execute` ends with the task's own exit code once the task has started.\n"
    return "\n".join(["## Exit codes\n", "| code | |", "|---|---|", *lines]) + "\n" + note


def _missing() -> str:
    return f"## Not available yet\n\nThe commands {' and '.join(f'`{name}`' for name in NOT_YET)}.\n"


if __name__ == "__main__":
    sys.stdout.write(page())
