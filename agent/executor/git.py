"""The `git` command as this agent uses it: always a list, never a prompt, never somebody's configuration edited.

Everything git needs to be told is said per command (`-c`), the user's and the system's own configuration stays in
force below it. Protocols other than file, http, https and ssh are off, hooks of whoever's configuration are off,
and a server that asks for a password is answered by `credential_helper.py` or not at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.errors import SetupFailed
from agent.executor.remotes import Credential
from agent.files import write_json
from agent.process.run import CommandFailed, Commands, Completed, tail
from agent.process.trouble import CANNOT_WRITE, is_full, trouble_in

FETCH_SECONDS = 4 * 3600.0
_SETTINGS: tuple[tuple[str, str], ...] = (
    ("protocol.allow", "never"),
    ("protocol.file.allow", "always"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("safe.directory", "*"),
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("submodule.recurse", "false"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.unpackLimit", "1"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """How git commands of one run are started."""

    commands: Commands
    settings: tuple[tuple[str, str], ...] = _SETTINGS
    environ: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        *arguments: str,
        cwd: str | None = None,
        stdin: bytes | None = None,
        check: bool = True,
        deadline_seconds: float = FETCH_SECONDS,
    ) -> Completed:
        """Run `git ARGUMENTS`; the caller sees to it that nothing in them can be taken for an option."""
        argv = ["git", *(part for name, value in self.settings for part in ("-c", f"{name}={value}")), *arguments]
        try:
            return self.commands.run(
                argv, cwd=cwd, stdin=stdin, environ=self.environ, check=check, deadline_seconds=deadline_seconds
            )
        except CommandFailed as error:
            if not error.message.startswith("cannot start git"):
                raise
            raise SetupFailed(
                f"git cannot be started on this host ({error.message})",
                hint="Whoever operates this host has to install the package git.",
                infrastructure=True,
            ) from error

    def with_settings(self, settings: Sequence[tuple[str, str]]) -> Git:
        """The same with further settings."""
        return replace(self, settings=(*self.settings, *settings))


def open_git(commands: Commands, credentials: Sequence[Credential], *, credentials_path: str) -> Git:
    """git for a run. The credentials go into the file `credentials_path` (0600), which the caller removes again."""
    write_json(credentials_path, [credential.to_json() for credential in credentials])
    settings = [*_SETTINGS, ("credential.helper", _helper(credentials_path))]
    if any(credential.prefix for credential in credentials):
        settings.append(("credential.useHttpPath", "true"))
    return Git(commands=commands, settings=tuple(settings), environ=quiet_environment(commands.environ))


def quiet_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep git and ssh from asking a person; what the operator has set stays as it is."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "SSH_ASKPASS": "", "LC_ALL": "C.UTF-8", "GIT_OPTIONAL_LOCKS": "0"}
    if "GIT_SSH_COMMAND" not in environ and "GIT_SSH" not in environ:
        quiet["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=30"
    return quiet


def as_environment(git: Git) -> dict[str, str]:
    """The same settings for a program that starts git itself (an installer that clones a requirement)."""
    variables = dict(git.environ)
    variables.pop("LC_ALL", None)
    chosen = [item for item in git.settings if item[0] != "core.hooksPath"]
    for number, (name, value) in enumerate(chosen):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    variables["GIT_CONFIG_COUNT"] = str(len(chosen))
    return variables


def _helper(credentials_path: str) -> str:
    """A credential helper is a shell command to git: every word of it is quoted here, and none is a secret."""
    from shlex import quote

    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "credential_helper.py")
    return f"!{quote(sys.executable)} -I -S {quote(script)} {quote(credentials_path)}"


def failure(error: CommandFailed, what: str, *, folder: str = "") -> SetupFailed:
    """A failed git command as the error of a task's set-up. What nobody knows is held against the host.

    `folder` is where it was to write.
    """
    trouble = trouble_in(error.output)
    if trouble is not None and trouble.what == CANNOT_WRITE and is_full(folder):
        trouble = trouble_in("No space left on device")
    return SetupFailed(
        f"{what}: {trouble.what if trouble else _last_words(error)}",
        hint=trouble.advice if trouble else "All that git said stands above.",
        details=tail(error.output),
        infrastructure=trouble is None or trouble.infrastructure,
    )


def _last_words(error: CommandFailed) -> str:
    said = [line for line in error.output.splitlines() if line.startswith(("fatal: ", "error: "))]
    return said[-1].partition(": ")[2] if said else error.message


def refuse_option(what: str, value: str) -> None:
    """A branch, tag or commit that git would take for an option, or that holds a line break, goes no further."""
    if value.startswith("-") or any(ord(letter) < 32 for letter in value) or ".." in value or value.startswith(":"):
        raise SetupFailed(f"the {what} {value!r} of the task is not a name that git may be given")
