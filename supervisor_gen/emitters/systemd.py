"""systemd units: the shipped ones, and for each agent a slice (the fence), a drop-in and an environment file.

Directives are those of systemd.exec(5), systemd.resource-control(5) and systemd.slice(5), version 249 and later.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from agent.errors import ConfigError
from supervisor_gen.emitters.base import (
    MARK,
    Written,
    cpus_for,
    has_own_user,
    header_for,
    numa_for,
    options_for,
    queues_in,
    visible_devices,
)
from supervisor_gen.model import DEFAULT_CONFIG_FILE, File, Files, HostPlan, PlannedAgent, Site

UNITS = "etc/systemd/system"
ENVIRONMENTS = "etc/gpufleet/agents"
#: The same in the folder that systemd gives the shim: nowhere else may a generator write (systemd 254 and later).
GENERATED_ENVIRONMENTS = "gpufleet-agents"
#: What is started at boot, and by what: the [Install] sections of the shipped units.
ENABLED = {"clearml-agents.target": "multi-user.target", "clearml-agents-apply.service": "clearml-agents.target"}
TARGET = f"{UNITS}/clearml-agents.target.d/agents.conf"
TEMPLATE = f"{UNITS}/clearml-agent@.service"
#: The shipped files and where they are installed.
SHIPPED = {
    "clearml-agent@.service": TEMPLATE,
    "clearml-agents.target": f"{UNITS}/clearml-agents.target",
    "clearml-agents.slice": f"{UNITS}/clearml-agents.slice",
    "clearml-agents-apply.service": f"{UNITS}/clearml-agents-apply.service",
    "clearml-agents-generator": "etc/systemd/system-generators/clearml-agents",
    "clearml-agents.sysusers": "etc/sysusers.d/clearml-agent.conf",
    "clearml-agents.tmpfiles": "etc/tmpfiles.d/clearml-agent.conf",
}
#: What a process needs to talk to the driver at all; no GPU can be used through these alone. The major number of the
#: unified memory driver differs from boot to boot, so it is named by its group in /proc/devices.
CONTROL_NODES = ("/dev/nvidiactl", "char-nvidia-uvm")

_SLICE = re.compile(rf"{UNITS}/clearml-agents-([^/]+)\.slice")
_DROP_IN = re.compile(rf"{UNITS}/clearml-agent@([^/]+)\.service\.d/agent\.conf")
_ENVIRONMENT = re.compile(rf"{ENVIRONMENTS}/([^/]+)\.env")
_FENCE = ("DeviceAllow=", "User=", "CUDA_VISIBLE_DEVICES=")


class Systemd:
    """Units for the system manager."""

    patterns = (
        f"{UNITS}/clearml-agent*",
        f"{UNITS}/clearml-agents.target.d/agents.conf",
        f"{UNITS}/clearml-agent@*.service.d/agent.conf",
        f"{ENVIRONMENTS}/*.env",
        *(path for name, path in SHIPPED.items() if name.endswith(("generator", "sysusers", "tmpfiles"))),
    )

    def files_for(self, plan: HostPlan, site: Site, *, also: Sequence[str] = ()) -> Files:
        files = {path: File(_shipped(name, site.program), _mode_of(name)) for name, path in SHIPPED.items()}
        files[TARGET] = File(target_text([*(agent.name for agent in plan.agents), *also]))
        for agent in plan.agents:
            files[f"{UNITS}/clearml-agents-{agent.name}.slice"] = File(slice_text(agent))
            files[f"{UNITS}/clearml-agent@{agent.name}.service.d/agent.conf"] = File(drop_in_text(agent))
            files[f"{ENVIRONMENTS}/{agent.name}.env"] = File(environment_text(agent, site.version), 0o600)
        return dict(sorted(files.items()))

    def owner(self, path: str) -> str:
        if path in SHIPPED.values():
            return ""
        found = next((match for rule in (_SLICE, _DROP_IN, _ENVIRONMENT) if (match := rule.fullmatch(path))), None)
        return found[1] if found else ""

    def concerns_all(self, path: str) -> bool:
        return path == TEMPLATE

    def fence_in(self, path: str, files: Files) -> tuple[str, ...]:
        file = files.get(path)
        return tuple(line for line in file.text.splitlines() if line.startswith(_FENCE)) if file else ()

    def written(self, agent: str, files: Files) -> Written:
        file = files.get(f"{ENVIRONMENTS}/{agent}.env")
        lines = [line.partition("=") for line in file.text.splitlines()] if file else []
        values = {name: plain_value(value) for name, equals, value in lines if equals}
        options = shlex.split(values.get("CLEARML_AGENT_OPTIONS", ""))
        return Written(version=values.get("GPUFLEET_VERSION", ""), queues=queues_in(options))


def target_text(agents: Sequence[str]) -> str:
    """The drop-in that starts all agents of this host together."""
    lines = [f"{MARK}; changes here are lost.", "[Unit]"]
    lines += [f"Wants=clearml-agent@{name}.service" for name in sorted(set(agents))]
    return "\n".join(lines) + "\n"


def slice_text(agent: PlannedAgent) -> str:
    """The fence: which devices, and how much of the host, the agent and its tasks may use."""
    limits = agent.settings.limits
    return header_for(agent) + "\n".join(
        [
            "[Unit]",
            f"Description=Fence of ClearML agent {agent.name}",
            "",
            "[Slice]",
            "DevicePolicy=closed",
            *_device_rules(agent),
            *([f"MemoryMax={limits.memory}"] if limits.memory else []),
            *([f"TasksMax={limits.tasks}"] if limits.tasks else []),
            *([f"CPUWeight={limits.cpu_weight}"] if limits.cpu_weight else []),
            "",
        ]
    )


def drop_in_text(agent: PlannedAgent) -> str:
    """What the service of this agent has beyond the template."""
    return header_for(agent) + "\n".join(
        ["[Service]", *_device_rules(agent), *_placement(agent), *_identity(agent), ""]
    )


def environment_text(agent: PlannedAgent, version: str) -> str:
    """The environment file: the options of the daemon, the devices for CUDA, and what the topology sets."""
    variables = {
        "CLEARML_AGENT_OPTIONS": " ".join(word_for(word) for word in options_for(agent)),
        "GPUFLEET_VERSION": version,
        **visible_devices(agent),
        **dict(sorted(agent.settings.environment.items())),
    }
    return header_for(agent) + "".join(f"{name}={value_for(value)}\n" for name, value in variables.items())


def word_for(word: str) -> str:
    """A word as systemd splits an unbraced variable of ExecStart= into words: quotes, and a backslash before what would
    end them (extract_first_word with EXTRACT_UNQUOTE).
    """
    if re.fullmatch(r"[A-Za-z0-9_./:=,@%+-]+", word):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def value_for(value: str) -> str:
    """A value as an EnvironmentFile= holds it (systemd.exec(5)): nothing is expanded there, and within double quotes a
    backslash stands before what a shell would take for special.
    """
    if re.fullmatch(r"[A-Za-z0-9_./:=,@%+-]*", value):
        return value
    if not set(value) & set("'\\"):
        return f"'{value}'"
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def plain_value(value: str) -> str:
    """Undo `value_for`."""
    if value.startswith("'"):
        return value[1:-1]
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _device_rules(agent: PlannedAgent) -> Iterator[str]:
    nodes = dict.fromkeys(node for device in agent.devices for node in device.nodes)
    yield from (f"DeviceAllow={node} rw" for node in (*nodes, *(CONTROL_NODES if nodes else ())))


def _placement(agent: PlannedAgent) -> Iterator[str]:
    """Next to the devices. Preferred, not bound: a task that needs more memory than a node has is slower, not dead."""
    cpus, numa = cpus_for(agent), numa_for(agent)
    if cpus:
        yield f"CPUAffinity={cpus}"
    if numa is not None:
        yield "NUMAPolicy=preferred"
        yield f"NUMAMask={numa}"


def _identity(agent: PlannedAgent) -> Iterator[str]:
    settings = agent.settings
    if settings.config_file != DEFAULT_CONFIG_FILE:
        yield "LoadCredential="
        yield f"LoadCredential=clearml.conf:{settings.config_file}"
        yield f"Environment=GPUFLEET_CONFIG_FILE={settings.config_file}"
    if has_own_user(settings):
        own = f"clearml-agent-{settings.user}"
        yield f"User={settings.user}"
        yield "# directories of its own, in place of the template's: systemd gives the whole tree to the unit's user"
        yield "StateDirectory="
        yield f"StateDirectory={own} {own}/tmp {own}/tmp/%i"  # noqa: S108 - folders below our own
        yield "StateDirectoryMode=0700"
        yield f"WorkingDirectory=/var/lib/{own}"
        yield "BindPaths="
        yield f"BindPaths=/var/lib/{own}/tmp/%i:/tmp /var/lib/{own}/tmp/%i:/var/tmp"  # noqa: S108 - its own /tmp
        yield f"Environment=HOME=/var/lib/{own}"
    if settings.mode == "docker":
        yield "# the docker socket; who may use it can become root"
        yield "SupplementaryGroups=docker"
    if settings.mode == "podman":
        yield "# rootless podman makes user namespaces, with the help of the setuid programs newuidmap and newgidmap"
        yield "NoNewPrivileges=no"
        yield "RestrictNamespaces=no"
        yield "RestrictSUIDSGID=no"
        yield "SystemCallFilter="
        yield "SystemCallFilter=@system-service @mount"
        yield "CapabilityBoundingSet=CAP_SETUID CAP_SETGID"


def units_folder() -> Path:
    """Where the hand-written units are: in the package, or beside it in a checkout."""
    installed = Path(__file__).parent.parent / "units"
    return installed if installed.is_dir() else Path(__file__).parent.parent.parent / "systemd"


@cache
def _read(name: str) -> str:
    try:
        return (units_folder() / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the installation is not complete: {error}", hint="Install gpufleet again.") from error


def _shipped(name: str, program: str) -> str:
    """A shipped file that starts our programs from where they are."""
    return _read(name).replace(os.path.dirname(Site().program), os.path.dirname(program))


def _mode_of(name: str) -> int:
    return 0o755 if name.endswith("generator") else 0o644
