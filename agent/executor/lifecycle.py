"""The life of a task, from inside.

`run_task` is the whole story in order of time; each step is a call, each call has its file, and what a step has to give
back is given back when its `with` ends. A failing user script is an outcome like any other. What fails before it is an
outcome too, with the phase it failed in and a paragraph for people.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from agent.errors import AgentError, SetupFailed
from agent.executor.checkout import Source, checkout
from agent.executor.command import command_for
from agent.executor.environment import Environment, open_environment
from agent.executor.faults import DISK_TAKES_NOTHING, of_the_system
from agent.executor.fold import Folder
from agent.executor.patch import apply_changes
from agent.executor.requirements import requirements_for
from agent.executor.running import Command, Exit, run_to_end
from agent.executor.wanted import Wanted
from agent.executor.workspace import Workspace, open_workspace, save_environment, save_outcome
from agent.files import write_json
from agent.models import Outcome
from agent.process.procfs import start_ticks_of
from agent.process.stop import StopRequested, StopSignal
from agent.steps import Step, reached

DISK_PAUSE_SECONDS = 0.5


def run_task(run_dir: str, stop: StopSignal, phases: Phases) -> Outcome:
    """Set the task up, run it to its end, and say how it ended."""
    with open_workspace(run_dir, stop=stop) as workspace, told_to(workspace, phases):
        reached(Step.WORKSPACE_OPEN)
        script = workspace.task.script
        with phases("checkout"):
            source = checkout(script, workspace)
        reached(Step.CODE_READY)
        with phases("patch"):
            entry = apply_changes(script, source, workspace)
        reached(Step.PATCHED)
        with phases("requirements"):
            wanted = requirements_for(script, source, entry, workspace)
        reached(Step.REQUIREMENTS_KNOWN)
        with phases("environment"), open_environment(wanted, workspace) as environment:
            reached(Step.ENVIRONMENT_READY)
            report_environment(environment, wanted, source, workspace)
            reached(Step.ENVIRONMENT_WRITTEN)
            command = command_for(entry, source, environment, workspace)
            announce_start(command, environment, workspace)
            with phases("run"):
                exit = run_to_end(
                    command,
                    workspace.console,
                    folder_for(workspace),
                    stop=stop,
                    grace_seconds=workspace.settings.agent.stop_grace_seconds,
                    announce=lambda pid: note_process(pid, command, workspace),
                )
            reached(Step.PROCESS_ENDED)
        return phases.outcome(exit)


def report_environment(environment: Environment, wanted: Wanted, source: Source, workspace: Workspace) -> None:
    """Say what the task got, to the runner as a file and to people as lines."""
    recorded = workspace.task.script.version_num
    save_environment(
        workspace,
        {
            "python": environment.python,
            "python_version": environment.interpreter.version,
            "frozen": environment.frozen,
            "requirements_source": wanted.origin,
            "commit": source.commit,
            "repository_changed": source.commit is not None and source.commit != recorded,
            "cache": environment.cache,
        },
    )


def announce_start(command: Command, environment: Environment, workspace: Workspace) -> None:
    """The lines that people, and agents of other generations, look for in a console."""
    from shlex import join

    console = workspace.console
    lines = [f"Running task id [{workspace.task.id}]:", f"[{command.cwd}]$ {join(command.argv)}"]
    lines += [f"Summary - installed python packages (Python {environment.interpreter.version}):"]
    lines += [f"- {line}" for line in environment.frozen]
    lines += ["Environment setup completed successfully", "Starting Task Execution:"]
    console.info("\n".join(lines))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(workspace.credentials_path)
    workspace.stop.check()


def folder_for(workspace: Workspace) -> Folder:
    """How the output of this task is folded into lines."""
    agent = workspace.settings.agent
    return Folder(progress_seconds=agent.progress_line_interval_seconds, fold_returns=agent.suppress_carriage_return)


def note_launch(run_dir: str) -> None:
    """Say which process we are, first of all: a daemon that was restarted meanwhile finds us by it."""
    pid = os.getpid()
    write_json(f"{run_dir}/launch.json", {"pid": pid, "start_ticks": start_ticks_of(pid)})


def note_stop(run_dir: str) -> None:
    """Say that we were asked to stop: a daemon that was told to leave at the same time stays to see our end."""
    with contextlib.suppress(OSError):
        os.close(os.open(f"{run_dir}/stopping", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def note_process(pid: int, command: Command, workspace: Workspace) -> None:
    """Write down who the user's process is, while it waits for its program."""
    reached(Step.PROCESS_FORKED)
    write_json(
        f"{workspace.run_dir}/user.json",
        {
            "pid": pid,
            "start_ticks": start_ticks_of(pid),
            "pgid": pid,
            "started_at_ms": int(time.time() * 1000),
            "argv": command.argv,
            "cwd": command.cwd,
        },
    )
    reached(Step.PROCESS_WRITTEN)


class Phases:
    """Which step the run is in, and how long each took. `told`: the console knows why it cannot go on."""

    def __init__(self) -> None:
        self.current = "prepare"
        self.told = False
        self.timings: dict[str, float] = {}
        self._started = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Be in the phase `name`. A phase inside another one ends the outer one's time, and keeps its name."""
        self._lap()
        self.current = name
        yield
        self._lap()

    def _lap(self) -> None:
        now = time.monotonic()
        spent = self.timings.get(self.current, 0.0) + now - self._started
        self.timings[self.current] = round(spent, 4)
        self._started = now

    def outcome(self, exit: Exit) -> Outcome:
        """The end of a run whose user code was started."""
        self._lap()
        return self._outcome(exit_code=exit.code, signal=exit.signal, stopped=exit.stopped)

    def failed(self, error: str, *, infrastructure: bool = False, stopped: bool = False) -> Outcome:
        """The end of a run that did not get that far."""
        self._lap()
        return self._outcome(error=error, infrastructure=infrastructure, stopped=stopped)

    def _outcome(
        self,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        error: str = "",
        infrastructure: bool = False,
        stopped: bool = False,
    ) -> Outcome:
        return Outcome(
            phase=self.current,
            exit_code=exit_code,
            signal=signal,
            error=error,
            infrastructure=infrastructure,
            told=bool(error) and self.told,
            stopped=stopped,
            timings=self.timings,
            finished_at_ms=int(time.time() * 1000),
        )


@contextlib.contextmanager
def told_to(workspace: Workspace, phases: Phases) -> Iterator[None]:
    """Tell the task's console about an error before it leaves the spine, with nothing in it that is secret."""
    try:
        yield
    except SetupFailed as error:
        raise tell(error, workspace, phases) from error
    except OSError as error:
        raise tell(of_the_system(error, phases.current, workspace.root), workspace, phases) from error
    except AgentError as error:
        raise tell(SetupFailed(error.message, hint=error.hint, infrastructure=True), workspace, phases) from error
    except StopRequested:
        workspace.console.info(f"stopped while the task was being set up ({phases.current})")
        raise


def tell(error: SetupFailed, workspace: Workspace, phases: Phases) -> SetupFailed:
    """Say in the console why the task cannot go on, and return the same error with nothing secret in it.

    On a full disk the workspace, which nobody needs any more, makes room for that.
    """
    console, redact = workspace.console, workspace.redact
    if error.details:
        console.error(error.details)
    console.error(f"{phases.current}: {error.paragraph}")
    if console.is_blocked:
        clear_away(workspace.root)
        console.retry()
    phases.told = not console.is_blocked
    return SetupFailed(
        redact(error.message),
        hint=redact(error.hint),
        details=redact(error.details),
        infrastructure=error.infrastructure,
    )


def keep_outcome(run_dir: str, outcome: Outcome) -> None:
    """Save the outcome, however long it takes: without it, how the task ended would be lost with us.

    On a full disk the workspace, which nobody needs any more, makes room; a disk that takes nothing at all is waited
    for.
    """
    while True:
        try:
            save_outcome(run_dir, outcome)
            return
        except OSError as error:
            if error.errno not in DISK_TAKES_NOTHING:
                raise
        clear_away(f"{run_dir}/workspace")
        time.sleep(DISK_PAUSE_SECONDS)


def clear_away(folder: str) -> None:
    """Remove a folder; what cannot be removed stays."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main(run_dir: str) -> int:
    """Run the task of a run directory and leave its outcome there; 0 if one was written."""
    os.umask(0o077)
    run_dir = os.path.abspath(run_dir)
    phases = Phases()
    with StopSignal(lambda: note_stop(run_dir)) as stop:
        reached(Step.EXECUTOR_BEGUN)
        note_launch(run_dir)
        reached(Step.LAUNCH_WRITTEN)
        try:
            outcome = run_task(run_dir, stop, phases)
        except StopRequested:
            outcome = phases.failed(f"stopped in phase {phases.current}", stopped=True)
        except SetupFailed as error:
            outcome = phases.failed(str(error), infrastructure=error.infrastructure)
        except AgentError as error:
            outcome = phases.failed(str(error), infrastructure=True)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            outcome = phases.failed(
                f"internal error of the executor: {type(error).__name__}: {error}", infrastructure=True
            )
        keep_outcome(run_dir, outcome)
        reached(Step.OUTCOME_WRITTEN)
    return 0
