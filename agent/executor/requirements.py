"""Which requirements a task gets: those recorded with it, else those that its repository has.

Which of the two it is, is decided here. What is said there is read by `requirements_file` (includes and options) and
`requirement_line` (everything else); a task that says nothing does without loading them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from agent.config.schema import PackageManagerSettings
from agent.executor.checkout import Source
from agent.executor.entry import Entry, really_inside
from agent.executor.wanted import Found, Wanted
from agent.executor.workspace import Workspace
from agent.models import Script


def requirements_for(script: Script, source: Source, entry: Entry, workspace: Workspace) -> Wanted:
    """The recorded packages where there are any, else every `requirements.txt` on the way to the script."""
    recorded = _recorded(script, workspace.settings.agent.package_manager)
    wanted = _from_task(recorded, source, entry) if recorded.strip() else _from_repository(source, entry)
    for warning in wanted.warnings:
        workspace.console.warning(warning)
    return wanted


def _recorded(script: Script, settings: PackageManagerSettings) -> str:
    if settings.force_repo_requirements_txt:
        return ""
    wanted = script.requirements
    if settings.force_original_requirements and (wanted.get("org_pip") or "").strip():
        return wanted["org_pip"] or ""
    return wanted.get("pip") or ""


def _from_task(recorded: str, source: Source, entry: Entry) -> Wanted:
    from agent.executor.places import Places
    from agent.executor.requirements_file import read_text

    found = Found()
    read_text(recorded, Places(folders=(entry.folder, source.root), root=source.root), found)
    return found.wanted(origin="task")


def _from_repository(source: Source, entry: Entry) -> Wanted:
    script_folder = os.path.dirname(entry.file) if entry.file else entry.folder
    found, origin = Found(), "none"
    for path in _files_on_the_way(source.root, script_folder):
        from agent.executor.requirements_file import read_file

        read_file(path, source.root, found)
        origin = "repository"
    return found.wanted(origin=origin)


def _files_on_the_way(root: str, folder: str) -> Iterator[str]:
    for each in _way_down(root, folder):
        path = f"{each}/requirements.txt"
        if os.path.isfile(really_inside(root, path, what="requirements file")):
            yield path


def _way_down(root: str, folder: str) -> list[str]:
    relative = os.path.relpath(folder, root)
    found = [root]
    for part in relative.split(os.sep) if relative != "." else []:
        found.append(f"{found[-1]}/{part}")
    return found
