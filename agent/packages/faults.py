"""Whose fault a failed installation is: read from what the installer printed."""

from __future__ import annotations

from agent.errors import SetupFailed
from agent.process.run import CommandFailed, tail

#: What installers and git say when host, network or index are in trouble. Anything else is held against the task.
_INFRASTRUCTURE = (
    "error sending request", "failed to fetch", "dns error", "failed to lookup address", "could not resolve host",
    "temporary failure in name resolution", "connection refused", "connection reset", "connection timed out",
    "timed out", "tcp connect error", "network is unreachable", "certificate", "tls", "proxy", "status code 5",
    "500 internal", "502 bad", "503 service", "504 gateway", "401 unauthorized", "403 forbidden",
    "no space left on device", "disk quota exceeded", "read-only file system", "input/output error",
    "unable to connect", "early eof", "remote end hung up", "authentication failed", "permission denied",
    "could not read username", "incompleteread", "newconnectionerror",
)  # fmt: skip


def failure(error: CommandFailed, what: str) -> SetupFailed:
    """A failed command of an installer as the error of a task's set-up."""
    lowered = error.output.lower()
    return SetupFailed(
        f"{what}: {error.message}",
        hint=tail(error.output, 60),
        infrastructure=error.returncode is None or any(words in lowered for words in _INFRASTRUCTURE),
    )
