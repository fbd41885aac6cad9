"""The click side of the command line: a group that imports a command when it is called, and commands that read
arguments as `clearml-agent` does: long options by any unique beginning, and options that take several values in a row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.declarations import COMMANDS, EPILOG, NOT_YET, OPTIONS, PROGRAM, SUMMARY, version_line
from agent.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from agent.cli.reread import Reread

F = TypeVar("F", bound=Callable[..., Any])

HELP = {"help_option_names": ["-h", "--help"]}
_OPTION_HELP = {option.names[-1]: option for option in OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What was said before the command.

    `typed` is the whole command line. `reread` is set where a running agent has its own command line read again.
    """

    config_file: str | None = None
    is_debug: bool = False
    typed: tuple[str, ...] = ()
    reread: Reread | None = None


def run(arguments: Sequence[str], *, typed: Sequence[str] = (), reread: Reread | None = None) -> int:
    """Parse a command line and call its command. Raises AgentError; a command's return value is the exit code.

    `typed` is the command line before files of arguments were put in.
    """
    begun = Invocation(typed=tuple(typed), reread=reread)
    try:
        result = program.main(list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=begun)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.exceptions.Abort, EOFError) as error:
        raise Interrupted("interrupted") from error
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        raise UsageError(_sentence(error.format_message()), hint=f"`{where} --help` shows what there is.") from error
    except click.ClickException as error:
        raise UsageError(_sentence(error.format_message())) from error
    return result if isinstance(result, int) else 0


class AgentCommand(click.Command):
    """A command whose arguments are first brought into a form that click reads."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_readable(args, self.get_params(ctx), ctx)))


class Several(click.Option):
    """An option with any number of values in a row: `--queue a b`. Given without a value it holds one empty text."""

    def __init__(self, *args: Any, needs_value: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})
        self.needs_value = needs_value


class LazyGroup(click.Group):
    """Knows its commands by name and summary; imports the one that is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Only what stands before the command is ours to read."""
        own = _until_command(args)
        readable = list(_readable(args[:own], self.get_params(ctx), ctx))
        return super().parse_args(ctx, readable + args[own:])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [command.name for command in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOT_YET:
            raise UsageError(f"{PROGRAM} {cmd_name} is not available yet in this version")
        module = next((command.module for command in COMMANDS if command.name == cmd_name), None)
        if module is None:
            close = get_close_matches(cmd_name, self.list_commands(ctx), n=1)
            guess = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(self.list_commands(ctx))}."
            raise UsageError(f"there is no command {cmd_name!r}", hint=guess)
        found: click.Command = import_module(f"agent.cli.{module}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.summary) for command in COMMANDS])


def _option(name: str, **attributes: Any) -> Callable[[F], F]:
    declared = _OPTION_HELP[name]
    return click.option(*declared.names, help=declared.summary, metavar=declared.metavar or None, **attributes)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_line(), nl=False)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    help=SUMMARY,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings=HELP,
    add_help_option=False,
    subcommand_metavar="COMMAND [ARGS]...",
)
@_option("--config-file", type=click.Path(dir_okay=False))
@_option("--debug", is_flag=True)
@_option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.help_option(*_OPTION_HELP["--help"].names, help=_OPTION_HELP["--help"].summary)
@click.pass_context
def program(ctx: click.Context, config_file: str | None, debug: bool) -> None:
    """Everything before the command."""
    from agent.logs import set_up_logging

    set_up_logging(level="DEBUG" if debug else "WARNING", program=PROGRAM.replace("-", "_"))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    if ctx.obj.reread is not None and ctx.obj.reread.config_file is not None:
        config_file = ctx.obj.reread.config_file
    ctx.obj = replace(ctx.obj, config_file=config_file, is_debug=debug)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def not_yet(*names: str, needs_value: bool = False, is_switch: bool = False) -> Callable[[F], F]:
    """An option of clearml-agent that this version does not have: it says so instead of being ignored."""

    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            raise UsageError(f"{names[0]} is not available yet in this version")

    if is_switch:
        return click.option(*names, is_flag=True, hidden=True, expose_value=False, callback=refuse)
    return click.option(*names, cls=Several, hidden=True, expose_value=False, callback=refuse)


def _readable(args: Sequence[str], params: Sequence[click.Parameter], ctx: click.Context) -> Iterator[str]:
    """Arguments with long options spelt out and the values of a `Several` attached to it one by one."""
    options = {name: param for param in params if isinstance(param, click.Option) for name in param.opts}
    at = 0
    while at < len(args):
        argument = args[at]
        at += 1
        if argument == "--":
            yield from args[at - 1 :]
            return
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = _spelt_out(name, options, ctx)
        option = options.get(name)
        if not isinstance(option, Several):
            yield name + equals + value if name.startswith("--") else argument
            if isinstance(option, click.Option) and not (equals or option.is_flag or option.count) and at < len(args):
                yield args[at]  # its value, whatever it looks like
                at += 1
            continue
        values = [value] if equals else []
        while not equals and at < len(args) and not args[at].startswith("-"):
            values.append(args[at])
            at += 1
        if not values and option.needs_value:
            raise click.UsageError(f"{name} needs at least one value", ctx)
        yield from (f"{option.opts[-1]}={text}" for text in values or [""])


def _spelt_out(name: str, options: Mapping[str, click.Option], ctx: click.Context) -> str:
    if name in options:
        return name
    matches = sorted(option for option in options if option.startswith(name) and option.startswith("--"))
    shown = {options[match] for match in matches}
    if len(shown) == 1:
        return matches[0]
    if matches:
        raise click.UsageError(f"{name} may mean {' or '.join(matches)}", ctx)
    close = get_close_matches(name, list(options), n=1)
    raise click.UsageError(f"there is no option {name}" + (f"; did you mean {close[0]}?" if close else ""), ctx)


def _until_command(args: Sequence[str]) -> int:
    """How many of the arguments come before the command."""
    at = 0
    while at < len(args) and args[at].startswith("-") and args[at] != "-":
        takes_value = "--config-file".startswith(args[at]) and args[at].startswith("--c")
        at += 2 if takes_value else 1
    return min(at, len(args))


def _sentence(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")
