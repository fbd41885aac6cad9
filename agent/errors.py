"""Every error a person can meet, with the exit code it ends in and a hint what to try.

One base class, one place that turns an error into a line and an exit code (`agent.cli.main`, and
`agent.worker.__main__` for the daemon). Exit code 1 is what `clearml-agent` uses for any handled error;
the narrower codes below let a unit file or a script tell causes apart.

    0 success                      5 credentials refused
    1 other error                  6 unknown queue, task or agent of this host
    2 usage                        7 bad GPU specification
    3 configuration                8 an agent with this worker id is already running
    4 server unreachable           9 nobody can tell which GPUs there are
   75 infrastructure failure     254 interrupted

75 (EX_TEMPFAIL of sysexits.h) is the exit code of a task that failed because of its host, the network or a server that
it needs, and not because of its own code: `clearml-agent execute` ends with it, and the task's status reason names it.
"""

from __future__ import annotations

INFRASTRUCTURE_EXIT_CODE = 75


class AgentError(Exception):
    """What failed, on what, and what to try.

    `message` is one line without a trailing full stop; `hint` is a sentence or empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(AgentError):
    """The command line contradicts itself."""

    exit_code = 2


class ConfigError(AgentError):
    """A configuration file is missing, unreadable or says something we do not understand."""

    exit_code = 3


class ServerUnreachable(AgentError):
    """No answer, or none that is an answer: refused, timed out, TLS failure, not an API server."""

    exit_code = 4


class CredentialsRefused(AgentError):
    """The server answered 401: wrong key or secret, or a token that is no longer accepted."""

    exit_code = 5


class UnknownQueue(AgentError):
    """A queue name or id that the server does not have."""

    exit_code = 6


class UnknownTask(AgentError):
    """A task id or name that the server does not have, or a name that several tasks share."""

    exit_code = 6


class GpuSpecError(AgentError):
    """A `--gpus` value that cannot be read or names a GPU this host does not have."""

    exit_code = 7


class GpuMissing(GpuSpecError):
    """A GPU that was here and may come back: the driver counts it and cannot talk to it, or its UUID is gone."""


class GpusUnknown(AgentError):
    """Nobody can tell which GPUs this host has: no driver, or NVML fails. Nothing was removed because of it."""

    exit_code = 9


class UnknownAgent(AgentError):
    """A worker id that no running agent of this host has."""

    exit_code = 6


class AgentSilent(AgentError):
    """An agent of this host lives and does not answer at its control socket."""


class AlreadyRunning(AgentError):
    """Another live agent on this host holds the same worker id."""

    exit_code = 8


class Interrupted(AgentError):
    """Ctrl-C or a stop request ended a foreground command."""

    exit_code = 254


class ApiError(AgentError):
    """The server understood the call and refused it: `code`/`subcode` are the envelope's numbers.

    `code` is an HTTP status, `subcode` ClearML's detail, e.g. (400, 101) unknown task, (400, 110) status transition
    refused, (400, 701) unknown queue, (404, 0) the server has no such endpoint.
    """

    def __init__(self, endpoint: str, code: int, subcode: int, message: str) -> None:
        super().__init__(f"{endpoint} was refused: {message} <{code}/{subcode}>")
        self.endpoint = endpoint
        self.code = code
        self.subcode = subcode
        self.reason = message

    def is_(self, code: int, subcode: int) -> bool:
        return (self.code, self.subcode) == (code, subcode)

    @property
    def is_server_fault(self) -> bool:
        """5xx and 429: nothing is known of the effect; the call may be repeated later."""
        return self.code >= 500 or self.code == 429


class ReplyLost(ServerUnreachable):
    """The request was sent and no reply came: whether it took effect has to be found out by looking."""


class ReplyUnreadable(ReplyLost):
    """The server answered, and not with what the call asks for. Asking again may help (a proxy), or never will."""


class BadTask(AgentError):
    """A task object that no agent could run: which field of it is wrong, and what was expected there."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(f"the task cannot be run: its field {field} is {found}, expected was {expected}")
        self.field = field


class SetupFailed(AgentError):
    """A task could not be brought to its first line; becomes the error of its outcome.

    `infrastructure` tells trouble of the host, the network, a git server or a package index, which may be over in a
    while or not be there on another host, from a fault that the task would show anywhere. `details` are the words of
    the tool that failed, which people see above the error.
    """

    def __init__(self, message: str, *, hint: str = "", infrastructure: bool = False, details: str = "") -> None:
        super().__init__(message, hint=hint)
        self.infrastructure = infrastructure
        self.details = details

    @property
    def paragraph(self) -> str:
        """What failed and what to do, without the details. A hint that shows a part of a file keeps its lines."""
        return f"{self.message}. {self.hint}" if self.hint and "\n" not in self.hint else super().__str__()

    def __str__(self) -> str:
        return "\n".join(filter(None, [super().__str__(), self.details]))
