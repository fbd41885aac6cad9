"""The place of one run and everything its steps share: opened first, closed last.

A run directory arrives with `task.json` and `setup.json` in it (the contract is in `docs/architecture.md`, "The run
directory"). What the steps make lies below `workspace/`, which whoever started us removes when the run is reported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config.schema import Settings, secrets_of
from agent.errors import AgentError, SetupFailed
from agent.executor.console import Console, redactor
from agent.files import load_json, write_json
from agent.models import ExecutorSetup, Outcome, Task
from agent.process import environ as environments
from agent.process.run import Commands
from agent.process.stop import StopSignal

#: What a disk says that is full, read-only or troubled, for now.
_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPERM, errno.EACCES})
_DISK_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A run: what is to be done (`task`, `setup`, `settings`), where, and the values every step needs.

    `inherited` is the host's environment without what is the agent's own; `commands` runs git and the installers.
    """

    run_dir: str
    task: Task
    setup: ExecutorSetup
    settings: Settings
    console: Console
    stop: StopSignal
    redact: Callable[[str], str]
    inherited: dict[str, str]
    commands: Commands

    @property
    def root(self) -> str:
        return f"{self.run_dir}/workspace"

    @property
    def code(self) -> str:
        """The checkout, or the folder of a literal script."""
        return f"{self.root}/code"

    @property
    def env(self) -> str:
        """The virtual environment of this run."""
        return f"{self.root}/env"

    @property
    def scratch(self) -> str:
        """A folder for temporary files of the set-up; commands run here unless they say otherwise."""
        return f"{self.root}/scratch"

    @property
    def credentials_path(self) -> str:
        """Where git's credentials lie while the run is set up."""
        return f"{self.run_dir}/git-credentials.json"

    @property
    def facts(self) -> str:
        """What is known about interpreters and tools of this host, kept between runs."""
        return f"{state_dir(self.settings, self.run_dir)}/facts"


def state_dir(settings: Settings, run_dir: str) -> str:
    """The agent's state folder: the one the configuration names, else the one the run directory lies in."""
    return os.path.expanduser(settings.agent.state_dir) or os.path.dirname(os.path.dirname(run_dir))


@contextlib.contextmanager
def open_workspace(run_dir: str, *, stop: StopSignal) -> Iterator[Workspace]:
    """The workspace of a run directory, empty; SetupFailed when the directory does not hold a run."""
    try:
        task = Task.from_wire(load_json(f"{run_dir}/task.json"))
        setup = ExecutorSetup.from_json(load_json(f"{run_dir}/setup.json"))
        settings = Settings.from_json(setup.settings)
    except (OSError, ValueError, KeyError, TypeError, AgentError) as error:
        raise SetupFailed(f"the run directory cannot be read: {error}", infrastructure=True) from error
    redact = redactor(secrets_of(settings))
    inherited = environments.inherited(os.environ, agent_bin=own_bin())
    with contextlib.closing(Console(f"{run_dir}/console", redact=redact)) as console:
        workspace = Workspace(
            run_dir=run_dir,
            task=task,
            setup=setup,
            settings=settings,
            console=console,
            stop=stop,
            redact=redact,
            inherited=inherited,
            commands=Commands(
                environ={
                    **environments.for_commands(inherited, configured_environment(settings)),
                    environments.RUN: run_dir,
                },
                cwd=f"{run_dir}/workspace/scratch",
                stop=stop,
                show=console.info,
                redact=redact,
            ),
        )
        _clear(workspace)
        try:
            yield workspace
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(workspace.credentials_path)


def configured_environment(settings: Settings) -> Mapping[str, str]:
    """The `environment` section of the configuration, where it is to be applied."""
    return settings.environment if settings.agent.apply_environment else {}


def _clear(workspace: Workspace) -> None:
    if os.path.exists(workspace.root):
        import shutil

        shutil.rmtree(workspace.root)
    os.makedirs(workspace.code)
    os.mkdir(workspace.scratch)


def own_bin() -> str | None:
    """The programs folder of the virtual environment the agent itself runs in; None where it runs in none."""
    return os.path.dirname(sys.executable) if sys.prefix != sys.base_prefix else None


def save_environment(workspace: Workspace, facts: dict[str, Any]) -> None:
    """Tell the runner which environment and commit the task gets (`environment.json`)."""
    write_json(f"{workspace.run_dir}/environment.json", {"version": 1, **facts})


def save_outcome(run_dir: str, outcome: Outcome) -> None:
    """The last word about a run; on the disk before anybody may act on it.

    A disk that takes nothing is waited for: without this file, how the task ended would be lost with us.
    """
    while True:
        try:
            write_json(f"{run_dir}/outcome.json", outcome.to_json(), durable=True)
            return
        except OSError as error:
            if error.errno not in _MAY_PASS:
                raise
            time.sleep(_DISK_PAUSE_SECONDS)
