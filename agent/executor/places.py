"""Where the paths are that requirements name: wheels, projects, and further files of requirements.

A relative path belongs to the task's repository and may not leave it, by its words or through a symbolic link. An
absolute one is of the machine that the task was recorded on; where this host has it, too, it is meant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from agent.errors import SetupFailed
from agent.executor.entry import really_inside

_PROJECTS = ("pyproject.toml", "setup.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Relative paths are looked for in `folders`, in this order, and found only inside of `root`."""

    folders: tuple[str, ...]
    root: str

    def existing(self, value: str) -> str | None:
        value = os.path.expanduser(value)
        if os.path.isabs(value):
            return os.path.normpath(value) if os.path.exists(value) else None
        for folder in self.folders:
            path = os.path.normpath(os.path.join(folder, value))
            if os.path.exists(path) and (path == self.root or path.startswith(self.root + os.sep)):
                return really_inside(self.root, path, what="requirement")
        return None

    def has_project(self, text: str) -> bool:
        """A bare word may be a folder of the repository; it is one only where it holds a project."""
        path = self.existing(text)
        return path is not None and any(os.path.isfile(f"{path}/{name}") for name in _PROJECTS)


def warning_of_absent(value: str) -> str:
    """What to say of an absolute path that is not here; a relative one should be in the repository and is refused."""
    if os.path.isabs(os.path.expanduser(value)):
        return f"requirements: {value} is not on this host and is left out"
    raise SetupFailed(
        f"the requirements name {value!r}, which is not in the task's repository",
        hint="Paths are relative to the requirements file or to the repository. Was it committed?",
    )
