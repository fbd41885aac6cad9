"""The command line and the environment of the user's process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from agent.config.schema import sdk_config
from agent.errors import SetupFailed
from agent.executor.checkout import Source
from agent.executor.entry import Entry
from agent.executor.environment import Environment
from agent.executor.running import Command
from agent.executor.workspace import Workspace, configured_environment
from agent.files import write_json
from agent.process import environ as environments
from agent.process.run import CommandFailed, tail

_VARIABLE = r"\$(?:\{(\w+)\}|(\w+))"


def command_for(entry: Entry, source: Source, environment: Environment, workspace: Workspace) -> Command:
    """What to start for a task whose code and packages are in place."""
    environ = environment_for(entry, source, environment, workspace)
    if entry.file is not None and entry.file.endswith(".ipynb") and not entry.option:
        entry = _from_notebook(entry, environment, workspace)
    binary = workspace.task.script.binary
    if runs_python(binary) and not entry.is_shell_script and entry.option != "-c":
        argv = _python(entry, environment, workspace.setup.optimize, environ)
    else:
        argv = _other(entry, binary, environ)
    setup = workspace.setup
    return Command(argv=argv, cwd=entry.folder, environ=environ, umask=setup.umask, keep=setup.leases)


def runs_python(binary: str) -> bool:
    """Whether a recorded binary stands for the interpreter of the environment."""
    return os.path.basename(binary.strip() or "python").startswith("python")


def _python(entry: Entry, environment: Environment, optimize: int, environ: Mapping[str, str]) -> tuple[str, ...]:
    flags = ["-u", *(["-" + "O" * optimize] if optimize else [])]
    if entry.option:
        words = [_expanded(word, environ) for word in entry.arguments]
        return (environment.python, *flags, entry.option, *words)
    return (environment.python, *flags, _relative(entry), *entry.arguments)


def _other(entry: Entry, binary: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Another program than Python, as it was recorded; a shell script without a shell recorded gets bash."""
    program = "bash" if runs_python(binary) else binary.strip()
    from shutil import which

    if which(program, path=environ.get("PATH")) is None:
        raise SetupFailed(
            f"the task is to be run by {program!r}, which is not on this host",
            hint="script.binary names the program; install it here, or record another one.",
        )
    if entry.option:
        return (program, entry.option, *entry.arguments)
    return (program, _relative(entry), *entry.arguments)


def _relative(entry: Entry) -> str:
    """The script as a person in the working directory would name it."""
    return os.path.relpath(entry.file or "", entry.folder)


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    """`$VAR` and `${VAR}` of a module's arguments, from the task's environment; unknown ones stay."""
    return re.sub(_VARIABLE, lambda match: environ.get(match[1] or match[2], match[0]), text)


def _from_notebook(entry: Entry, environment: Environment, workspace: Workspace) -> Entry:
    path = entry.file or ""
    command = [environment.python, "-m", "nbconvert", "--to", "python", path]
    try:
        workspace.commands.run(command, cwd=entry.folder, deadline_seconds=600)
    except CommandFailed as error:
        raise SetupFailed(
            f"the notebook {os.path.basename(path)} cannot be turned into a script",
            hint=f"nbconvert has to be among the task's packages.\n{tail(error.output, 12)}",
        ) from error
    return Entry(folder=entry.folder, file=f"{path.removesuffix('.ipynb')}.py", arguments=entry.arguments)


def environment_for(entry: Entry, source: Source, environment: Environment, workspace: Workspace) -> dict[str, str]:
    """The variables of the user's process."""
    settings, task = workspace.settings, workspace.task
    return environments.for_task(
        workspace.inherited,
        configured=configured_environment(settings),
        section=environments.task_section(task.hyperparams) if settings.agent.enable_task_env else {},
        given=workspace.setup.environment,
        identity=_identity(workspace),
        python_path=_python_path(entry, source, workspace),
        env_root=environment.folder,
    )


def _identity(workspace: Workspace) -> dict[str, str]:
    """What tells the SDK that it runs under an agent, and as whom."""
    api = workspace.settings.api
    path = f"{workspace.run_dir}/clearml.conf"
    write_json(path, sdk_config(workspace.settings))
    token = {"CLEARML_AUTH_TOKEN": api.auth_token} if api.auth_token and not api.access_key else {}
    return {
        "CLEARML_TASK_ID": workspace.task.id,
        "CLEARML_CONFIG_FILE": path,
        "CLEARML_LOG_LEVEL": workspace.setup.log_level,
        "CLEARML_LOG_TASK_TO_BACKEND": "0",
        "CLEARML_WORKER_ID": workspace.setup.worker_id,
        environments.RUN: workspace.run_dir,
        **token,
    }


def _python_path(entry: Entry, source: Source, workspace: Workspace) -> tuple[str, ...]:
    agent = workspace.settings.agent
    return environments.without_repeats(
        [
            entry.folder,
            os.path.dirname(entry.file) if entry.file else "",
            source.root if agent.force_git_root_python_path else "",
            agent.extra_python_path,
        ]
    )
