"""What an emitter promises, and what the emitters share.

An emitter turns a plan into the text of files, by their path below the root of the host. It is pure: the same plan and
program give the same bytes, whatever else the host has. Every file begins with our header (a script with its `#!` line
before it), because by that header files are recognised, replaced and removed later.

A path belongs to one agent (`owner`), or to all of them. What a running task must not see change while it runs is its
fence (`fence_in`): the agent is drained before such a change is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.gpu.kernel import cpu_list
from supervisor_gen.model import DEFAULT_USER, AgentSettings, Files, HostPlan, PlannedAgent, Site

MARK = "# Made by supervisor-gen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the file of an agent says of it: which version wrote it ("": an early one), and which queues it serves."""

    version: str = ""
    queues: tuple[str, ...] = ()


class Emitter(Protocol):
    """One way to write a plan down."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns, for `Path.glob` below the root, of everything that the emitter may write and remove."""
        ...

    def files_for(self, plan: HostPlan, site: Site, *, also: Sequence[str] = ()) -> Files:
        """All files of a host. `also` are further agents: their files exist, and they are to be started as well."""
        ...

    def owner(self, path: str) -> str:
        """The agent that a path belongs to; "" for one that all share."""
        ...

    def concerns_all(self, path: str) -> bool:
        """Whether a change of this shared file makes every agent run differently."""
        ...

    def fence_in(self, path: str, files: Files) -> tuple[str, ...]:
        """The lines of a file that say which devices an agent has and whom it runs as."""
        ...

    def written(self, agent: str, files: Files) -> Written:
        """What the files say of an agent; nothing of one that has none."""
        ...


def header_for(agent: PlannedAgent) -> str:
    """The first line of a file that a plan made: where it comes from, without the folder, which differs by host."""
    return f"{MARK} from {agent.place.file.rpartition('/')[2]}, line {agent.place.line}; changes here are lost.\n"


def is_ours(text: str) -> bool:
    """Whether a file was written by an emitter."""
    first, _, rest = text.partition("\n")
    return first.startswith(MARK) or (first.startswith("#!") and rest.startswith(MARK))


def without_header(text: str) -> str:
    """What a file says, whoever declared it where."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(MARK))


def options_for(agent: PlannedAgent) -> tuple[str, ...]:
    """The arguments of `clearml-agent daemon`, without how it is started and where it logs."""
    settings = agent.settings
    words: list[str] = []
    if agent.devices:
        words += ["--gpus", ",".join(device.uuid for device in agent.devices)]
    else:
        words += ["--cpu-only"]
    if settings.dynamic_gpus:
        words += ["--dynamic-gpus"]
    if settings.services_mode is not None:
        words += ["--services-mode", *([str(settings.services_mode)] if settings.services_mode >= 0 else [])]
    words += ["--queue", *settings.queues]
    words += ["--order-fairness"] if settings.order_fairness else []
    words += ["--create-queue"] if settings.create_queue else []
    words += _runtime(settings)
    words += ["--uptime", *settings.uptime] if settings.uptime else []
    words += ["--downtime", *settings.downtime] if settings.downtime else []
    return (*words, *settings.options)


def queues_in(words: Sequence[str]) -> tuple[str, ...]:
    """The queues that `options_for` has written."""
    queues: list[str] = []
    for word in words[words.index("--queue") + 1 :] if "--queue" in words else ():
        if word.startswith("-"):  # which no queue does
            break
        queues.append(word)
    return tuple(queues)


def visible_devices(agent: PlannedAgent) -> dict[str, str]:
    """The variables that name the devices to CUDA: by UUID, which no change of hardware renumbers."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid for device in agent.devices),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def cpus_for(agent: PlannedAgent) -> str:
    """The CPUs an agent is pinned to, as the kernel writes a list; "" for all."""
    if agent.settings.limits.cpus:
        return agent.settings.limits.cpus
    if not agent.devices or not all(device.cpus for device in agent.devices):
        return ""
    return cpu_list(sorted({cpu for device in agent.devices for cpu in cpus_in(device.cpus)}))


def numa_for(agent: PlannedAgent) -> int | None:
    """The one NUMA node that all devices are next to; None if there is no such node."""
    nodes = {device.numa for device in agent.devices}
    return nodes.pop() if len(nodes) == 1 else None


def cpus_in(text: str) -> set[int]:
    """The CPUs of a list such as "0-3,8"."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def has_own_user(settings: AgentSettings) -> bool:
    """Whether an agent runs as somebody else than all the others."""
    return settings.user != DEFAULT_USER


def _runtime(settings: AgentSettings) -> list[str]:
    if settings.mode == "venv":
        return []
    return [f"--{settings.mode}", *([settings.image] if settings.image else []), *settings.arguments]
