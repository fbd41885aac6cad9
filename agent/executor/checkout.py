"""The task's source code as it was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from agent.executor.workspace import Workspace
from agent.models import Script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.git import Git


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Code on the disk: `root` is the checkout (or the folder for a literal script), `commit` what it is at."""

    root: str
    commit: str | None = None
    git: Git | None = None


def checkout(script: Script, workspace: Workspace) -> Source:
    """The repository of the task at the recorded commit, tag or branch; an empty folder where it has none."""
    if not script.repository:
        return Source(root=workspace.code)
    from agent.executor.repository import check_out

    return check_out(script, workspace)
