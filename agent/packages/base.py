"""What an installer is to the executor.

An installer gets a *prefix*: a fresh, empty virtual environment that somebody else has written (`venv.py`), with an
interpreter at `bin/python`, at a path that is not the path it will later be used from. It brings packages into it and
says what it brought. It neither creates environments nor caches them, knows no task and no repository, and
leaves nothing outside the prefix but its own download cache. Two installers given the same plan bring the same
packages.

The order of methods is the order of use:

    refusal     why this installer cannot work here, or None; asked once, before anything else
    identity    name and version: part of the key of a cached environment, so it must be cheap
    surrounding further texts that change what a plan resolves to (its configuration, the index settings of the host)
    install     do it; CommandFailed of a command is turned into a SetupFailed that says whose fault it is
    freeze      what is installed now, one requirement a line, with exact versions and commits
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.packages.interpreter import Interpreter
from agent.process.run import Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What an installer may use of its surroundings.

    `commands` runs programs (its environment is the host's), `git_environ` makes git silent and gives it credentials,
    `facts` is a folder to remember things in that cost a command to find out, `scratch` one for temporary files.
    """

    commands: Commands
    facts: str
    scratch: str
    git_environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to install, in three rounds: everything that is needed, then what wants to come after it, then luxuries.

    `needed`, `after` and `optional` are requirement lines (paths in them are absolute); `constraints` limit versions.
    A failure of `optional` is a warning. `extra_indexes` and `find_links` hold for this plan only, `flags` are passed
    on as they are.
    """

    needed: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    upgrade: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.needed or self.after or self.optional)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A virtual environment to install into: its folder, and the interpreter it was made for."""

    folder: str
    interpreter: Interpreter

    @property
    def python(self) -> str:
        return f"{self.folder}/bin/python"

    @property
    def site_packages(self) -> str:
        return f"{self.folder}/{self.interpreter.site_packages}"


class PackageManager(Protocol):
    """An installer; see the module's text for what each method promises."""

    name: str

    def refusal(self) -> str | None:
        """Why it cannot be used on this host."""

    def identity(self) -> str:
        """Its name and version."""

    def surrounding(self) -> tuple[str, ...]:
        """Whatever else decides what a requirement resolves to."""

    def install(self, plan: Plan, prefix: Prefix) -> None:
        """Bring the packages of the plan into the prefix."""

    def freeze(self, prefix: Prefix) -> tuple[str, ...]:
        """What is installed in the prefix."""
