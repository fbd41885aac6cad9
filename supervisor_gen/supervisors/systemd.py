"""systemd, through systemctl. One call answers for all agents of a host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from supervisor_gen.emitters.systemd import ENABLED, UNITS
from supervisor_gen.supervisors.base import Condition, State
from supervisor_gen.supervisors.commands import run

_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "MainPID", "StatusText", "Result")


def unit_of(agent: str) -> str:
    """The service of an agent."""
    return f"clearml-agent@{agent}.service"


class Systemd:
    """The system manager of this host."""

    def states(self, agents: Sequence[str]) -> Mapping[str, State]:
        if not agents:
            return {}
        shown = run(["systemctl", "show", f"--property={','.join(_PROPERTIES)}", *map(unit_of, agents)])
        by_unit = {fields.get("Id", ""): _state(fields) for fields in _blocks(shown)}
        return {agent: by_unit.get(unit_of(agent), State(condition=Condition.GONE)) for agent in agents}

    def prepare(self) -> None:
        """Have the driver's nodes: CUDA makes missing ones by a setuid program, which no agent may run, and a rule for
        a group of nodes that is not there when the agent starts is passed over.
        """
        if shutil.which("nvidia-modprobe"):
            run(["nvidia-modprobe", "-c", "0", "-u"], accept=tuple(range(256)))

    def reload(self, agents: Sequence[str]) -> None:
        run(["systemd-sysusers", "clearml-agent.conf"])
        run(["systemd-tmpfiles", "--create", "clearml-agent.conf"], accept=(0, 65, 73))
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "enable", "--quiet", *ENABLED])

    def start(self, agents: Sequence[str]) -> None:
        units = list(map(unit_of, agents))
        if units:
            run(["systemctl", "reset-failed", *units], accept=(0, 1))
            run(["systemctl", "start", "--no-block", *units])

    def restart(self, agents: Sequence[str]) -> None:
        units = list(map(unit_of, agents))
        if units:
            run(["systemctl", "restart", "--no-block", *units])

    def drain(self, agents: Sequence[str]) -> None:
        """USR1 to the agent itself and to nothing of its task. One that is between two starts has no process: it is
        asked again at the next look.
        """
        units = list(map(unit_of, agents))
        if units:
            # its name before systemd 252, which newer ones still take
            run(["systemctl", "kill", "--kill-who=main", "--signal=SIGUSR1", *units], accept=(0, 1))

    def forget(self, agents: Sequence[str]) -> None:
        run(["systemctl", "daemon-reload"])
        for unit in (f"clearml-agents-{agent}.slice" for agent in agents):
            run(["systemctl", "stop", "--no-block", unit], accept=(0, 1, 5))
        if agents:
            run(["systemctl", "reset-failed", *map(unit_of, agents)], accept=(0, 1))


def enable_in(root: Path) -> None:
    """Enable what begins at boot, in an image that is not running (and need not have a systemctl)."""
    for unit, wanted_by in ENABLED.items():
        link = root / UNITS / f"{wanted_by}.wants" / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(f"/{UNITS}/{unit}")


def _blocks(shown: str) -> Iterator[dict[str, str]]:
    """`systemctl show` of several units: KEY=VALUE lines, an empty line between two units."""
    for block in shown.split("\n\n"):
        yield dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _state(fields: Mapping[str, str]) -> State:
    active, sub = fields.get("ActiveState", ""), fields.get("SubState", "")
    says = fields.get("StatusText", "")
    if fields.get("LoadState") == "masked":
        return State(condition=Condition.MASKED, says="masked")
    if active == "failed":
        return State(condition=Condition.FAILED, says=f"failed ({fields.get('Result', '')})")
    if active in ("activating", "deactivating", "reloading"):
        return State(condition=Condition.STARTING, says=says or sub)
    if active == "active":
        return State(condition=Condition.RUNNING, says=says)
    return State(condition=Condition.GONE, says=sub)
