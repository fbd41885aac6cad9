"""What has to be in order before `apply` writes anything."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from agent.errors import ConfigError
from supervisor_gen.model import DEFAULT_CONFIG_FILE, DEFAULT_USER, Files, HostPlan, PlannedAgent, Site
from supervisor_gen.writer import refuse_foreign


def check(
    root: Path, files: Files, plan: HostPlan, site: Site, *, hidden: Sequence[str] = (), offline: bool = False
) -> None:
    """Refuse before anything is written: foreign files in the way; programs, accounts and users that are not there.

    `hidden` are places that agents cannot see. `offline`: an image is prepared, into which all that may come later.
    """
    refuse_foreign(root, files)
    if offline:
        return
    if plan.agents and not Path(site.program).exists():
        raise ConfigError(f"there is no {site.program}", hint="--program names the clearml-agent that the units call.")
    _refuse_hidden(site.program, hidden)
    for agent in plan.agents:
        _refuse_unknown_user(agent)
        if not Path(agent.settings.config_file).exists():
            raise ConfigError(
                f"{agent.place}: agent {agent.name} is to read {agent.settings.config_file}, which does not exist",
                hint=f"`clearml-agent init` writes one; {DEFAULT_CONFIG_FILE} (mode 0600) is the usual place.",
            )


def _refuse_hidden(program: str, hidden: Sequence[str]) -> None:
    """A program in a place that the units hide from their processes would only fail in the unit."""
    place = next((place for place in hidden if os.path.realpath(program).startswith(f"{place}/")), "")
    if place:
        raise ConfigError(
            f"{program} is below {place}, which the units hide",
            hint="Install gpufleet elsewhere (/opt/gpufleet/current is the usual place), or name it by --program.",
        )


def _refuse_unknown_user(agent: PlannedAgent) -> None:
    try:
        if agent.settings.user != DEFAULT_USER:
            pwd.getpwnam(agent.settings.user)
        if agent.settings.mode == "docker":
            grp.getgrnam("docker")
    except KeyError as error:
        missing = "group docker" if error.args[0].startswith("getgrnam") else f"user {agent.settings.user}"
        raise ConfigError(f"{agent.place}: agent {agent.name} needs the {missing}, which is not there") from error
