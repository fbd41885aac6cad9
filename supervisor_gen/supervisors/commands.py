"""Running `systemctl` and `supervisorctl`: argument lists, a deadline, and what was said when it failed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from agent.errors import AgentError

SECONDS = 120.0


def run(command: Sequence[str], *, accept: tuple[int, ...] = (0,), seconds: float = SECONDS) -> str:
    """The standard output of a command. Raises AgentError if it is missing, hangs, or ends with another code."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds
        )
    except FileNotFoundError as error:
        raise AgentError(f"there is no {command[0]} on this host", hint="--format names the supervisor.") from error
    except subprocess.TimeoutExpired as error:
        raise AgentError(f"`{' '.join(command)}` has not ended within {seconds:.0f} s") from error
    if done.returncode not in accept:
        said = " ".join((done.stderr or done.stdout).split())
        raise AgentError(f"`{' '.join(command)}` ended with {done.returncode}: {said or 'no reason given'}")
    return done.stdout
