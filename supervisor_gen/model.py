"""The values between the parts of the generator: what was declared, what is planned, what is written.

Topology and plan are values without behaviour. A `Place` says where in which file something was declared, so that an
error found much later can still name the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import __version__

DEFAULT_USER = "clearml"
DEFAULT_CONFIG_FILE = "/etc/gpufleet/clearml.conf"
#: Variables that the generator sets for an agent itself; a topology may not.
OWN_VARIABLES = frozenset(
    {
        *("CLEARML_AGENT_OPTIONS", "CLEARML_AGENT_HOLD_FILE", "GPUFLEET_VERSION"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; reads as `topology.conf, line 12`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


# What was declared


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which GPUs of a host an entry is about. An empty field selects everything.

    `models` are shell patterns, or plain words that a name has to contain, in any letter case. Memory is in MiB,
    both ends inclusive. `indexes` are NVML's. `mig` are patterns of MIG profiles ("1g.10gb"): with them the entry is
    about MIG instances, without them about whole GPUs (which are not in MIG mode).
    """

    models: tuple[str, ...] = ()
    least_memory_mib: int | None = None
    most_memory_mib: int | None = None
    indexes: tuple[int, ...] = ()
    mig: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the tasks of one agent may use together. None: no limit of ours.

    `memory` is what systemd's MemoryMax= takes ("64G", "50%"). `cpus` is a list as the kernel writes it ("0-7,16-23");
    empty: the CPUs that NVML names as close to the agent's GPUs.
    """

    memory: str | None = None
    tasks: int | None = None
    cpu_weight: int | None = None
    cpus: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """How an agent is started, apart from its devices.

    `queues` in order of preference; with `dynamic_gpus` each is `name=N` or `name=MIN-MAX`. `services_mode`: None is
    off, -1 is without a limit, else the number of tasks at once. `mode` is "venv", "docker" or "podman"; `image` and
    `arguments` belong to the latter two. `uptime` and `downtime` are working hours in ClearML's notation, of which
    one at most is set. `options` are further arguments of `clearml-agent daemon`, as they are.
    """

    queues: tuple[str, ...] = ()
    order_fairness: bool = False
    create_queue: bool = False
    dynamic_gpus: bool = False
    services_mode: int | None = None
    mode: str = "venv"
    image: str = ""
    arguments: tuple[str, ...] = ()
    uptime: tuple[str, ...] = ()
    downtime: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    user: str = DEFAULT_USER
    config_file: str = DEFAULT_CONFIG_FILE
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One element of `agents`: which hosts, which GPUs, how they are shared out, and the agents' settings.

    `gpus` is the number per agent: 0 for CPU slots, -1 for one agent with all that are selected. `count` is the number
    of agents; None: as many as the selected GPUs make. `rest`: only what no earlier entry has taken, which may be
    nothing. `optional`: a host may have nothing that the selector matches.
    `places` has the line of each key of the entry that was written, by key ("gpu.model", "queues"); `place` is the
    entry's own.
    """

    place: Place
    name: str = ""
    hosts: tuple[str, ...] = ()
    selector: Selector = field(default_factory=Selector)
    gpus: int = 1
    count: int | None = None
    rest: bool = False
    optional: bool = False
    settings: AgentSettings = field(default_factory=AgentSettings)
    places: Mapping[str, Place] = field(default_factory=dict)

    def place_of(self, key: str) -> Place:
        """Where `key` was written, or the entry itself where it was not."""
        return self.places.get(key, self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A topology file, checked. `groups` are sets of host name patterns that `hosts: ["@name"]` refers to."""

    file: str
    entries: tuple[Entry, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# What is planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU or MIG instance that an agent is given.

    `label` is what `--gpus` would call it ("3", "0:1"). `numa` is the host's NUMA node next to it, None if not known;
    `cpus` the CPUs next to it as the kernel writes a list, "" if not known. `nodes` are the device nodes that belong to
    it alone; a MIG instance shares the node of its GPU and has capability nodes of its own.
    """

    uuid: str
    label: str
    model: str
    memory_mib: int
    numa: int | None = None
    cpus: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAgent:
    """An agent that this host should have: its name on this host, its devices (none: CPU only) and its settings."""

    name: str
    place: Place
    settings: AgentSettings
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """The agents of one host, by name. `warnings` are sentences for a person.

    `unknown` says why nobody can tell which GPUs this host has; `agents` are then only those that need none, and
    whatever agents with GPUs exist already stay as they are. `idle` are devices that no agent gets.
    """

    host: str
    agents: tuple[PlannedAgent, ...] = ()
    warnings: tuple[str, ...] = ()
    unknown: str = ""
    idle: tuple[Device, ...] = ()


# What is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """How this host is laid out: the clearml-agent that is started, and (under supervisord; systemd's units have theirs
    written in them) where agents keep their state and their logs, and the signal that stops them: TERM leaves their
    tasks running, INT ends them. Every agent's own file names the `version`, so that a newer one, or one that is rolled
    back to, finds every agent changed.
    """

    program: str = "/opt/gpufleet/current/bin/clearml-agent"
    state_dir: str = "/var/lib/clearml-agent"
    log_dir: str = "/var/log/gpufleet"
    stop_signal: str = "TERM"
    version: str = __version__


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written: its text and its mode."""

    text: str
    mode: int = 0o644


#: Files by their path relative to the root of the host ("etc/systemd/system/clearml-agents.target").
Files = Mapping[str, File]
