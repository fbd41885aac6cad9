"""What `clearml-agent` has at its top level: options and commands, and the help text made of them. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass

from agent import __version__

PROGRAM = "clearml-agent"
SUMMARY = "Runs tasks from ClearML queues on this host."
EPILOG = "`clearml-agent COMMAND --help` describes a command."


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: the module in `agent.cli` that has it as `command`, and its line in the help."""

    name: str
    module: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option before the command. `metavar` is empty for a switch."""

    names: tuple[str, ...]
    metavar: str
    summary: str

    @property
    def usage(self) -> str:
        return " ".join(filter(None, (", ".join(self.names), self.metavar)))


COMMANDS = (
    Command(name="config", module="config", summary="Show the configuration, secrets masked."),
    Command(name="daemon", module="daemon", summary="Take tasks from queues and run them."),
    Command(name="execute", module="execute", summary="Run one task in the foreground."),
    Command(name="init", module="init", summary="Write ~/clearml.conf, asking questions."),
    Command(name="list", module="listing", summary="List the workers that the server knows."),
    Command(name="pause", module="pause", summary="Take no further task, until resumed."),
    Command(name="reload", module="reload", summary="Read the configuration again."),
    Command(name="resume", module="resume", summary="Take tasks again after `pause`."),
    Command(name="schedule", module="schedule", summary="Show what working hours mean."),
    Command(name="status", module="report", summary="Show how this host's agents are."),
)
#: Commands of clearml-agent that this version does not have.
NOT_YET = ("build", "install-bootstrap")

OPTIONS = (
    Option(names=("--config-file",), metavar="FILE", summary="Read this configuration file only."),
    Option(names=("-d", "--debug"), metavar="", summary="Log everything, show tracebacks."),
    Option(names=("--version",), metavar="", summary="Show the version and exit."),
    Option(names=("-h", "--help"), metavar="", summary="Show this message and exit."),
)


def version_line() -> str:
    return f"CLEARML-AGENT version {__version__}\n"


def top_level_help() -> str:
    """The same text as click makes of the same declarations on a terminal of 80 columns; a test compares them."""
    options = [(option.usage, option.summary) for option in OPTIONS]
    commands = [(command.name, command.summary) for command in COMMANDS]
    return (
        f"Usage: {PROGRAM} [OPTIONS] COMMAND [ARGS]...\n\n  {SUMMARY}\n\n"
        f"Options:\n{_table(options)}\nCommands:\n{_table(commands)}\n  {EPILOG}\n"
    )


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows) + 2
    return "".join(f"  {left:<{width}}{right}\n" for left, right in rows)
