"""`python -m agent.cli.reread REQUEST ANSWER`: the command line of a running agent, read again for it.

A child of the agent, so that what parsing takes (click, pyhocon) never comes into the process that lives for months.
REQUEST ({"worker_id", "setup", "config"}) is a file for its user's eyes, like the set-up file, and so is ANSWER: either
{"setup", "environment"} of the next agent, or {"error", "hint", "exit_code"}. Nothing else on this host is changed,
except that the files of the section `files` are written once everything is known to be right.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.api.client import open_client
from agent.config.schema import Settings
from agent.errors import AgentError, ServerUnreachable, UsageError
from agent.files import Json, load_json, write_json
from agent.logs import current_redactor
from agent.models import WorkerSetup
from agent.runner.rundir import Runs
from agent.worker.identity import names_for
from agent.worker.reload import is_moved, server_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """Who asks, and where the answer goes. `config_file` is read in place of the one on the command line."""

    worker_id: str
    old: WorkerSetup
    answer: Path
    config: Json | None = None
    config_file: str | None = None

    def accept(self, setup: WorkerSetup, environment: Mapping[str, str]) -> None:
        """Hand the new set-up over."""
        setup = replace(setup, given_config=self.config)
        write_json(self.answer, {"setup": setup.to_json(), "environment": dict(environment)})

    def check(self, settings: Settings, setup: WorkerSetup) -> None:
        """Raises AgentError for what a running agent cannot take over."""
        old = Settings.from_json(self.old.settings)
        known = [worker_id for worker_id, _ in names_for(settings.agent, setup)]
        if self.worker_id not in known:
            raise UsageError(
                f"another worker id cannot come into force in a running agent: {self.worker_id} would be {known[0]}",
                hint="Stop this one (`daemon --stop --leave` keeps its task), and start the other.",
            )
        if settings.agent.state_dir != old.agent.state_dir:
            raise UsageError(
                f"agent.state_dir cannot change in a running agent, from {old.agent.state_dir} to "
                f"{settings.agent.state_dir}",
                hint="What it has under way is there. Drain it, then start it anew.",
            )
        if is_moved(self.old, setup) and Runs(Path(settings.agent.state_dir) / "runs").of_agent(self.worker_id):
            raise UsageError(
                f"the server cannot change while a task runs, from {server_of(self.old)} to {server_of(setup)}",
                hint="Pause the agent, and reload once its task has ended.",
            )
        if settings.api != old.api:
            _try(settings)


def _try(settings: Settings) -> None:
    """Log in. An agent that is refused ends, so this is tried while it still works with what it had."""
    client = open_client(settings.api, name=settings.agent.worker_name)
    try:
        client.log_in()
    except ServerUnreachable as error:
        raise type(error)(error.message, hint="A change of the section `api` needs a server that answers.") from error
    finally:
        client.close()


def main(arguments: list[str]) -> int:
    """Answer the request; the exit code is that of the error."""
    request, answer = load_json(arguments[0]), Path(arguments[1])
    os.unlink(arguments[0])
    old, config = WorkerSetup.from_json(request["setup"]), request.get("config")
    try:
        with _config_file(config, answer.parent) as config_file:
            reread = Reread(
                worker_id=request["worker_id"], old=old, answer=answer, config=config, config_file=config_file
            )
            try:
                _run(list(old.arguments), reread)
            except AgentError as error:
                if config_file is not None:
                    error.message = error.message.replace(config_file, str(config["name"]))
                raise
    except AgentError as error:
        redact = current_redactor()
        said = {"error": redact(error.message), "hint": redact(error.hint), "exit_code": error.exit_code}
        write_json(answer, said)
        return error.exit_code
    return 0


def _run(arguments: list[str], reread: Reread) -> None:
    from agent.cli import with_argument_files
    from agent.cli.group import run

    run(with_argument_files(arguments), typed=arguments, reread=reread)


@contextmanager
def _config_file(config: Json | None, folder: Path) -> Iterator[str | None]:
    """A configuration that was handed over, as a file for our eyes."""
    if config is None:
        yield None
        return
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=f"setup.{os.getpid()}.", suffix=".conf") as file:
        file.write(str(config.get("text") or ""))
        file.flush()
        yield file.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
