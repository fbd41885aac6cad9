"""Whose fault a failed installation is: read from what the installer printed."""

from __future__ import annotations

from agent.errors import SetupFailed
from agent.process.run import CommandFailed, tail
from agent.process.trouble import trouble_in


def failure(error: CommandFailed, what: str, *, log: str = "") -> SetupFailed:
    """A failed command of an installer as the error of a task's set-up; `log` is what it has told a file only."""
    trouble = trouble_in(f"{error.output}\n{log}")
    if trouble is None:
        return SetupFailed(
            f"{what}: {error.message}",
            hint="What the installer said stands above.",
            details=tail(error.output, 60),
            infrastructure=error.returncode is None or error.returncode < 0,
        )
    return SetupFailed(
        f"{what}: {trouble}",
        hint=trouble.advice,
        details=tail(error.output, 60),
        infrastructure=trouble.infrastructure,
    )
