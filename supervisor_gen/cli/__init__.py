"""The command line of `supervisor-gen`. This module is the one place that turns an error into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.errors import AgentError, Interrupted

PROGRAM = "supervisor-gen"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (the table is in `agent.errors`, and docs/supervisor-gen.md)."""
    import click

    from supervisor_gen.cli.group import group

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = group.main(args=given, prog_name=PROGRAM, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _failed(error.format_message(), f"`{PROGRAM} --help` lists commands and options.", 2)
    except AgentError as error:
        return _failed(error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _failed("interrupted", "Nothing is half done; run it again to go on.", Interrupted.exit_code)
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _failed(message: str, hint: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{PROGRAM}: ERROR: {message}\n" + (f"  {hint}\n" if hint else ""))
    return code
