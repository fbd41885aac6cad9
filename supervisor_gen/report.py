"""Plans for people and for programs: a table of at most 120 columns, and JSON.

Values of environment variables may be secrets and are in neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agent.gpu.kernel import cpu_list
from agent.table import table
from supervisor_gen.emitters.base import cpus_for
from supervisor_gen.fleet import FleetPlan
from supervisor_gen.model import AgentSettings, Device, HostPlan, PlannedAgent

WIDTH = 120
#: Narrower than this no column is made to save room; what does not fit is cut.
LEAST_WIDTH = 9
HEADS = ("AGENT", "GPUS", "MODEL", "MEMORY", "QUEUES", "MODE", "CPUS", "HOURS")
#: Columns that are cut where a line would be too long.
ELASTIC = frozenset({"MODEL", "QUEUES", "MODE", "CPUS", "HOURS"})
#: Arguments of docker and podman that are followed by NAME=VALUE.
ENVIRONMENT_FLAGS = ("-e", "--env")


def plan_to_json(plan: HostPlan) -> dict[str, Any]:
    """A plan as JSON.

    {"host": "…", "unknown": "" or why nobody can tell its GPUs, "warnings": ["…"], "idle": [DEVICE],
     "agents": [{"name": "…", "declared": {"file": "…", "line": 1}, "devices": [DEVICE], "cpus": "0-55" or "",
                 "queues": ["…"], "order_fairness": false, "create_queue": false, "dynamic_gpus": false,
                 "services_mode": null or -1 or N, "mode": "venv", "image": "", "arguments": ["…"],
                 "uptime": ["…"], "downtime": ["…"], "environment": ["NAME"], "user": "…", "config_file": "…",
                 "limits": {"memory": null, "tasks": null, "cpu_weight": null, "cpus": ""}, "options": ["…"]}]}

    DEVICE: {"uuid": "GPU-…", "label": "3", "model": "…", "memory_mib": 81559, "numa": null or 0, "cpus": "0-55",
             "nodes": ["/dev/nvidia3"]}
    """
    return {
        "host": plan.host,
        "unknown": plan.unknown,
        "warnings": list(plan.warnings),
        "idle": [_device_to_json(device) for device in plan.idle],
        "agents": [_agent_to_json(agent) for agent in plan.agents],
    }


def fleet_to_json(plan: FleetPlan) -> dict[str, Any]:
    """{"hosts": [as `plan_to_json`], "errors": {"HOST": ["…"]}, "problems": ["…"]}"""
    return {
        "hosts": [plan_to_json(host) for host in plan.plans],
        "errors": {host: list(problems) for host, problems in plan.errors.items()},
        "problems": list(plan.problems),
    }


def plan_table(plan: HostPlan) -> str:
    """A line per agent, what a person should know, and a summary."""
    lines = _table(HEADS, [_row(agent) for agent in plan.agents]) if plan.agents else []
    return "\n".join([*lines, *_notes(plan), _counted(len(plan.agents), f"agent{{}} on {plan.host}")])


def fleet_table(plan: FleetPlan) -> str:
    """A line per agent with its host before it, what a person should know, and a summary."""
    rows = [[host.host, *_row(agent)] for host in plan.plans for agent in host.agents]
    lines = _table(("HOST", *HEADS), rows) if rows else []
    notes = [f"{host.host}: {note}" for host in plan.plans for note in _notes(host)]
    errors = [f"{host}: error: {problem}" for host, problems in plan.errors.items() for problem in problems]
    problems = [f"error: {problem}" for problem in plan.problems]
    return "\n".join([*lines, *notes, *errors, *problems, _summary(plan)])


def _summary(plan: FleetPlan) -> str:
    agents = sum(len(host.agents) for host in plan.plans)
    parts = [_counted(len(plan.plans) + len(plan.errors), "host{}"), _counted(agents, "agent{}")]
    if plan.errors:
        parts.append(_counted(len(plan.errors), "host{} with errors"))
    if plan.problems:
        parts.append(_counted(len(plan.problems), "problem{} of the topology"))
    return ", ".join(parts)


def _counted(number: int, words: str) -> str:
    return f"{number:,} {words.format('' if number == 1 else 's')}"


def _notes(plan: HostPlan) -> Iterator[str]:
    if plan.unknown:
        yield f"warning: nobody can tell which GPUs there are, agents with GPUs stay as they are: {plan.unknown}"
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _row(agent: PlannedAgent) -> list[str]:
    settings, devices = agent.settings, agent.devices
    return [
        agent.name,
        _labels(devices),
        "/".join(dict.fromkeys(device.model.removeprefix("NVIDIA ") for device in devices)),
        _memory(devices),
        " ".join(settings.queues),
        _mode(settings),
        cpus_for(agent),
        _hours(settings),
    ]


def _labels(devices: Sequence[Device]) -> str:
    """Neighbouring GPUs as a range, as `--gpus` takes it."""
    if all(device.label.isdecimal() for device in devices):
        return cpu_list(sorted({int(device.label) for device in devices}))
    return ",".join(device.label for device in devices)


def _memory(devices: Sequence[Device]) -> str:
    sizes = {device.memory_mib for device in devices}
    if len(sizes) == 1:
        size = f"{sizes.pop() / 1024:.0f} GiB"
        return size if len(devices) == 1 else f"{len(devices)} x {size}"
    return f"{sum(device.memory_mib for device in devices) / 1024:.0f} GiB" if devices else ""


def _mode(settings: AgentSettings) -> str:
    words = [settings.mode]
    if settings.services_mode is not None:
        words.append("services" if settings.services_mode < 0 else f"services={settings.services_mode}")
    words += ["dynamic"] if settings.dynamic_gpus else []
    words += ["fair"] if settings.order_fairness else []
    words += [settings.image] if settings.image else []
    return " ".join(words)


def _hours(settings: AgentSettings) -> str:
    if settings.uptime:
        return "up " + " ".join(settings.uptime)
    return "down " + " ".join(settings.downtime) if settings.downtime else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The columns in which something is, cut to fit."""
    used = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    heads = [heads[column] for column in used]
    cells = [[row[column] for column in used] for row in rows]
    widths = [max(len(line[column]) for line in (heads, *cells)) for column in range(len(heads))]
    _narrow(widths, [column for column, head in enumerate(heads) if head in ELASTIC])
    return table(heads, ([_cut(*cell) for cell in zip(row, widths, strict=True)] for row in cells)).split("\n")


def _narrow(widths: list[int], elastic: Iterable[int]) -> None:
    """Take from the widest until a line fits, if it can."""
    columns = [*elastic]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widest = max(columns, key=lambda column: widths[column], default=None)
        if widest is None or widths[widest] <= LEAST_WIDTH:
            return
        widths[widest] -= 1


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _agent_to_json(agent: PlannedAgent) -> dict[str, Any]:
    settings = agent.settings
    limits = settings.limits
    return {
        "name": agent.name,
        "declared": {"file": agent.place.file, "line": agent.place.line},
        "devices": [_device_to_json(device) for device in agent.devices],
        "cpus": cpus_for(agent),
        "queues": list(settings.queues),
        "order_fairness": settings.order_fairness,
        "create_queue": settings.create_queue,
        "dynamic_gpus": settings.dynamic_gpus,
        "services_mode": settings.services_mode,
        "mode": settings.mode,
        "image": settings.image,
        "arguments": [*_without_values(settings.arguments)],
        "uptime": list(settings.uptime),
        "downtime": list(settings.downtime),
        "environment": sorted(settings.environment),
        "limits": {
            "memory": limits.memory,
            "tasks": limits.tasks,
            "cpu_weight": limits.cpu_weight,
            "cpus": limits.cpus,
        },
        "user": settings.user,
        "config_file": settings.config_file,
        "options": list(settings.options),
    }


def _without_values(arguments: Sequence[str]) -> Iterator[str]:
    """Arguments of a container runtime, with `***` for the values of environment variables."""
    before = ""
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if before in ENVIRONMENT_FLAGS and value:
            yield f"{flag}=***"
        elif flag in ENVIRONMENT_FLAGS and "=" in value:
            yield f"{flag}={value.partition('=')[0]}=***"
        else:
            yield argument
        before = argument


def _device_to_json(device: Device) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "label": device.label,
        "model": device.model,
        "memory_mib": device.memory_mib,
        "numa": device.numa,
        "cpus": device.cpus,
        "nodes": list(device.nodes),
    }
