"""Project names are paths: what a valid one looks like and what it is made of (server_api.md, 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

MAX_DEPTH = 10
MIN_BASENAME = 3


class ProjectNameError(ValueError):
    """A project name was refused."""


class MalformedNameError(ProjectNameError):
    """Nothing, or nothing between two slashes."""


class ShortNameError(ProjectNameError):
    """The last part is shorter than three characters."""


class TooDeepError(ProjectNameError):
    """More than ten levels."""


def clean_name(name: str) -> str:
    """Return the name as it is stored, or say why it cannot be one."""
    parts = [part.strip() for part in name.strip().strip("/").split("/")]
    if not all(parts):
        raise MalformedNameError(f"Project name has an empty part: {name!r}")
    if len(parts) > MAX_DEPTH:
        raise TooDeepError(f"Project is nested deeper than {MAX_DEPTH} levels: {name!r}")
    if len(parts[-1]) < MIN_BASENAME:
        raise ShortNameError(f"Project name is shorter than {MIN_BASENAME} characters: {parts[-1]!r}")
    return "/".join(parts)


def basename_of(name: str) -> str:
    """Return the last part of a clean name."""
    return name.rpartition("/")[2]


def location_of(name: str) -> str:
    """Return the name of the parent project, or nothing for a project at the top."""
    return name.rpartition("/")[0]


def ancestors_of(name: str) -> Sequence[str]:
    """Return the names of all parents, from the top down."""
    return tuple(accumulate(name.split("/")[:-1], "{}/{}".format))


def renamed_below(name: str, old_root: str, new_root: str) -> str:
    """Return the name that a project below `old_root` has once that is called `new_root`."""
    return new_root + name[len(old_root) :]
