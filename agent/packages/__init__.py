"""Who installs a task's packages, and into what.

`pick` chooses once, by name, before anything is constructed. A new installer is one file beside `uv.py` and one line
in `KNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.config.schema import AgentSettings
from agent.errors import SetupFailed
from agent.packages.base import Host, PackageManager


def _uv(agent: AgentSettings, host: Host) -> PackageManager:
    from agent.packages.uv import Uv

    return Uv(agent, host)


def _pip(agent: AgentSettings, host: Host) -> PackageManager:
    from agent.packages.pip import Pip

    return Pip(agent, host)


#: Constructors by the name that `agent.package_manager.type` knows them under; modules are imported when chosen.
KNOWN: Mapping[str, Callable[[AgentSettings, Host], PackageManager]] = {"uv": _uv, "pip": _pip}
#: Names that `clearml.conf` may hold and that nothing here answers to yet.
_NOT_HERE = frozenset({"conda", "poetry"})


def pick(wanted: str, agent: AgentSettings, host: Host) -> PackageManager:
    """The first of `wanted` ("uv|pip") that works on this host; SetupFailed says why each of them does not."""
    refusals = []
    for name in (part.strip() for part in wanted.split("|")):
        if name in _NOT_HERE:
            raise SetupFailed(
                f"the package manager {name} is asked for, and this agent cannot use it",
                hint=f"Set agent.package_manager.type to one of: {', '.join(KNOWN)}.",
            )
        if name not in KNOWN:
            raise SetupFailed(
                f"unknown package manager {name!r}", hint=f"agent.package_manager.type may be: {', '.join(KNOWN)}."
            )
        manager = KNOWN[name](agent, host)
        if (refusal := manager.refusal()) is None:
            return manager
        refusals.append(f"{name}: {refusal}")
    raise SetupFailed("no package manager works on this host", hint="\n".join(refusals), infrastructure=True)
