"""The command line of `clearml-agent`. This module is the one place that turns an error into a line and an exit code.

`clearml-agent --help` is asked for by scripts and shell completions, and importing click takes longer than everything
else it does; so the top-level help is put together here, from the declarations that the click group is made of too
(`declarations.py`). Every other command line goes to click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.cli.declarations import PROGRAM, top_level_help, version_line
from agent.errors import AgentError, Interrupted, UsageError

#: A file of arguments may name another one, but not without end.
DEEPEST_ARGUMENT_FILE = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (the table is in `agent.errors`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        given = with_argument_files(given)
        if answer := quick_answer(given):
            sys.stdout.write(answer)
            sys.stdout.flush()
            return 0
        from agent.cli.group import run

        return run(given, typed=sys.argv[1:] if arguments is None else arguments)
    except AgentError as error:
        return _failed(error, is_debug=wants_debug(given))
    except KeyboardInterrupt:
        return _failed(Interrupted("interrupted"), is_debug=wants_debug(given))
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if wants_debug(given):
            raise
        return _failed(
            AgentError(f"internal error: {type(error).__name__}: {error}", hint="`--debug` shows where."),
            is_debug=False,
        )


def quick_answer(arguments: Sequence[str]) -> str:
    """What to print where that takes no parsing; empty otherwise."""
    match arguments:
        case [] | ["--help"] | ["-h"]:
            return top_level_help()
        case ["--version"]:
            return version_line()
    return ""


def with_argument_files(arguments: Sequence[str], depth: int = 0) -> list[str]:
    """The arguments, with every `@file` replaced by the lines of that file, each of which is one argument."""
    if depth > DEEPEST_ARGUMENT_FILE:
        raise UsageError(f"files of arguments name each other: {arguments[0] if arguments else ''}")
    found: list[str] = []
    for argument in arguments:
        if argument.startswith("@") and len(argument) > 1:
            found += with_argument_files(_lines_of(argument[1:]), depth + 1)
        else:
            found.append(argument)
    return found


def wants_debug(arguments: Sequence[str]) -> bool:
    """Whether `--debug` was given before the command; click may not have come as far as reading it."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--debug", "-d"):
            return True
        elif argument == "--config-file":
            skip = True
        elif not argument.startswith("-"):
            return False
    return False


def _lines_of(file: str) -> list[str]:
    try:
        with open(file, encoding="utf-8") as stream:
            return stream.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"cannot read the file of arguments {file}: {reason}") from error


def _failed(error: AgentError, *, is_debug: bool) -> int:
    from agent.logs import current_redactor

    if is_debug:
        import traceback

        sys.stderr.write(current_redactor()("".join(traceback.format_exception(error))))
    text = f"{PROGRAM.replace('-', '_')}: ERROR: {error.message}\n"
    if error.hint:
        text += f"  {error.hint}\n"
    sys.stdout.flush()
    sys.stderr.write(current_redactor()(text))
    return error.exit_code
