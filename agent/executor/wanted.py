"""What a task wants installed, as a value, and in which rounds an installer is to go about it.

Reading it is a matter of others (`agent.executor.requirements`); who has a `Wanted` knows all that there is to know of
the text it was read from, so that neither the environment nor its cache reads a line again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agent.config.schema import PackageManagerSettings
from agent.packages.base import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.remotes import Credential


class Kind(StrEnum):
    """Where a requirement comes from."""

    INDEX = "index"
    URL = "url"
    VCS = "vcs"
    PATH = "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One requirement: `text` as an installer takes it, `recorded` as it was written, `name` normalised or empty.

    `lasting` means that the text alone says what will be installed, today and in a month (up to what an index adds).
    """

    text: str
    recorded: str
    name: str
    kind: Kind
    lasting: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a task wants installed. `origin` is "task", "repository" or "none"."""

    origin: str
    requirements: tuple[Requirement, ...] = ()
    constraints: tuple[str, ...] = ()
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    credentials: tuple[Credential, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_lasting(self) -> bool:
        """Whether the same wish means the same packages for another task."""
        return all(each.lasting for each in self.requirements) and not any(
            "://" not in place for place in self.find_links
        )


@dataclass(slots=True)
class Found:
    """A `Wanted` that grows while texts are read, in the order of their lines."""

    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    extra_indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    credentials: list[Credential] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def wanted(self, *, origin: str) -> Wanted:
        return Wanted(
            origin=origin,
            requirements=_once(self.requirements),
            constraints=tuple(self.constraints),
            extra_indexes=tuple(self.extra_indexes),
            find_links=tuple(self.find_links),
            flags=tuple(self.flags),
            credentials=tuple(self.credentials),
            warnings=tuple(self.warnings),
        )


def _once(requirements: Sequence[Requirement]) -> tuple[Requirement, ...]:
    """Equal lines once; of several mentions of the SDK the last one counts."""
    last = {each.name: each for each in requirements if each.name in ("clearml", "trains")}
    kept = [each for each in requirements if last.get(each.name, each) is each]
    return tuple({(each.name, each.text): each for each in kept}.values())


def plan_for(wanted: Wanted, settings: PackageManagerSettings) -> Plan:
    """In which rounds to install what is wanted, by the four lists of `agent.package_manager`.

    Priority packages come first in their round: an installer that resolves everything together needs no more.
    """
    first, after, optional = [], [], []
    later: list[str] = []
    for each in wanted.requirements:
        if each.name in _names(settings.post_optional_packages) | _names(settings.priority_optional_packages):
            optional.append(each.text)
        elif each.name in _names(settings.post_packages):
            after.append(each.text)
        elif each.name in _names(settings.priority_packages):
            first.append(each.text)
        else:
            later.append(each.text)
    return Plan(
        needed=(*first, *later),
        after=tuple(after),
        optional=tuple(optional),
        constraints=wanted.constraints,
        extra_indexes=(*wanted.extra_indexes, *settings.extra_index_url),
        find_links=wanted.find_links,
        flags=(*wanted.flags, *settings.extra_pip_install_flags),
        upgrade=settings.force_upgrade,
    )


def _names(names: Sequence[str]) -> frozenset[str]:
    return frozenset(normalised(name) for name in names)


def normalised(name: str) -> str:
    """A project's name in the one spelling that all its spellings share (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
