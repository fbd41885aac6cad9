"""The values that travel between the parts of the agent, parsed once at the edge and valid inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agent import wire
from agent.errors import BadTask
from agent.states import TaskStatus

Json = dict[str, Any]


#: Longest texts that a task may have: what becomes a name or a path, and what becomes the words of a command line.
LONGEST_LINE = 4096
LONGEST_ENTRY_POINT = 64 * 1024
#: How deep lists and objects of a task may be nested; a ClearML Server stores no more.
DEEPEST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """`task.script`: what to run. `diff` keeps its bytes; the other texts are stripped.

    `requirements` maps an installer's name ("pip", "conda", "org_pip", ...) to its text, or to None where the
    server stored null; a list on the wire is joined by newlines. A missing key and None mean "look in the
    repository", an empty text means "nothing recorded" (reference: ClearML agent, requirement semantics).
    """

    binary: str = "python"
    repository: str = ""
    branch: str = ""
    tag: str = ""
    version_num: str = ""
    entry_point: str = ""
    working_dir: str = "."
    diff: str = ""
    requirements: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Script:
        """Read a task's section `script`. Raises BadTask."""
        return cls(
            binary=_line(data, "binary") or "python",
            repository=_line(data, "repository"),
            branch=_line(data, "branch"),
            tag=_line(data, "tag"),
            version_num=_line(data, "version_num"),
            entry_point=_line(data, "entry_point", longest=LONGEST_ENTRY_POINT),
            working_dir=_line(data, "working_dir") or ".",
            diff=_text_in(data.get("diff"), "script.diff"),
            requirements=_requirements_in(data.get("requirements")),
        )


def _line(script: Mapping[str, Any], name: str, *, longest: int = LONGEST_LINE) -> str:
    """A text that will be a path, a name or an argument."""
    field = f"script.{name}"
    found = _text_in(script.get(name), field).strip()
    if len(found) > longest:
        raise BadTask(field, f"{len(found)} characters long", f"a text of at most {longest}")
    if wire.UNFIT.search(found):
        raise BadTask(field, "a text with NUL or half a character in it", "one that can be part of a command line")
    return found


def _text_in(value: object, field: str) -> str:
    """A text (empty where there is none); whole numbers are taken for what they look like."""
    if value is not None and not isinstance(value, str) and not wire.text(value):
        raise BadTask(field, wire.kind_of(value), "a text")
    return wire.text(value)


def _object_in(value: object, field: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise BadTask(field, wire.kind_of(value), "an object")
    return wire.mapping(value)


def _requirements_in(value: object) -> dict[str, str | None]:
    field = "script.requirements"
    if not value:
        return {}
    if isinstance(value, str | list):  # of before there was more than one installer
        value = {"pip": value}
    return {
        str(name): _joined(text, f"{field}.{wire.shown(str(name))}") for name, text in _object_in(value, field).items()
    }


def _joined(value: object, field: str) -> str | None:
    if isinstance(value, list):
        return "\n".join(_text_in(line, field) for line in value)
    return None if value is None else _text_in(value, field)


def _hyperparams_in(value: object) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    sections = {name: _object_in(found, "hyperparams") for name, found in _object_in(value, "hyperparams").items()}
    for name, entry in sections.get("Environment", {}).items():
        found = entry.get("value") if isinstance(entry, Mapping) else entry
        if isinstance(found, Mapping | list):  # a variable of the task's process
            raise BadTask(f"hyperparams.Environment.{wire.shown(str(name))}", wire.kind_of(found), "a text")
    return sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as the server describes it; `raw` is the whole object for what has no field here."""

    id: str
    name: str = ""
    project: str = ""
    status: TaskStatus = TaskStatus.UNKNOWN
    status_message: str = ""
    status_reason: str = ""
    script: Script = field(default_factory=Script)
    hyperparams: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, data: object) -> Task:
        """Read a task object of `tasks.get_by_id`; unknown fields are kept in `raw`, missing ones get defaults.

        Raises BadTask where a field that a run depends on is not what it has to be. What is only shown to people is
        left out instead.
        """
        if not isinstance(data, Mapping):
            raise BadTask("task", wire.kind_of(data), "an object")
        if wire.is_deeper(data, DEEPEST):
            raise BadTask("task", f"nested more than {DEEPEST} deep", "less")
        identifier = _text_in(data.get("id"), "id")
        if not identifier or len(identifier) > LONGEST_LINE or wire.UNFIT.search(identifier):
            raise BadTask("id", "empty or not a name", "the id of the task")
        return cls(
            id=identifier,
            name=wire.text(data.get("name")),
            project=wire.text(data.get("project")),
            status=TaskStatus(wire.text(data.get("status"))),
            status_message=wire.text(data.get("status_message")),
            status_reason=wire.text(data.get("status_reason")),
            script=Script.from_wire(_object_in(data.get("script"), "script")),
            hyperparams=_hyperparams_in(data.get("hyperparams")),
            runtime=_object_in(data.get("runtime"), "runtime"),
            raw=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, as the executor saw it: the content of `outcome.json`.

    `phase` is the step that ended the run ("prepare", "checkout", "patch", "requirements", "environment", "run").
    In phase "run" exactly one of `exit_code` (0..255) and `signal` (number) is set; before it, `error` says in
    one paragraph what failed and what to try, and `infrastructure` tells a fault of the host or the network from a
    fault of the task; `told`: the task's console has it already. A program that could not even be started leaves an
    `error` in phase "run", too. `stopped`: the end was asked for (SIGTERM to the executor). Times are epoch
    milliseconds.
    """

    phase: str
    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    infrastructure: bool = False
    told: bool = False
    stopped: bool = False
    timings: Mapping[str, float] = field(default_factory=dict)
    finished_at_ms: int = 0
    version: int = 1

    @property
    def has_ended_itself(self) -> bool:
        """Whether the user's process was started and came to an end of its own."""
        return self.phase == "run" and (self.exit_code is not None or self.signal is not None)

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """TypeError or ValueError where this is no outcome."""
        outcome = cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})
        wire.check_types(outcome)
        return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSetup:
    """What the executor needs besides the task: the content of `setup.json` (0600, it carries git credentials).

    `settings` is `Settings.to_json()`; `environment` is laid over the inherited environment of the task's process
    (GPU visibility, worker id), `umask` is what that process had without us; `optimize` counts `-O` flags for the
    task's interpreter; `log_level` becomes CLEARML_LOG_LEVEL. `leases` are open descriptors that the task's process
    inherits: who holds them has the GPUs.
    """

    settings: Json
    worker_id: str
    environment: Mapping[str, str] = field(default_factory=dict)
    umask: int = 0o022
    optimize: int = 0
    log_level: str = "INFO"
    standalone: bool = False
    leases: tuple[int, ...] = ()
    version: int = 1

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExecutorSetup:
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "leases": tuple(known.get("leases") or ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """What an agent that starts anew in the same process has from the one before: its worker id, by the open descriptor
    of its lock, that it was ready, and that it was asked to read the configuration again when it could not any more.
    """

    worker_id: str
    slot: int | None
    descriptor: int
    was_ready: bool
    reread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What `clearml-agent daemon` hands to `python -m agent.worker`: command line and configuration, resolved.

    `settings` is `Settings.to_json()`. `gpus` is the text of `--gpus` (None: not given), `gpu_environment` the
    variables it stands for, `gpu_suffix` its part of the worker id ("gpu0,1"; None: the id ends in a slot number).
    `units` are the GPUs and MIG instances that it names ({"label", "uuid", "gpu", "numa"}) and `links` how closely they
    are connected ([uuid, uuid, `Link`]); both empty where nobody can tell. `share` is the part of these GPUs that the
    agent may use (None: all of it). `missing` are devices that `gpus` names and that do not answer.
    `queues` are names or ids in order of preference; empty: the server's default queue. `services` is how many tasks
    run at once, each as a sub-worker (None: one, as the worker itself; 0: any number). `wishes` are how many GPUs a
    task of each queue gets at least and at most; not empty: GPUs are shared out to many tasks. `log_level` is ours,
    `task_umask` is the umask that the daemon was called with (its own is 077), `json_logs` switches the daemon's own
    log to one JSON object a line.

    `arguments` are the command line as it was typed, and `environment_before` the variables that the configuration has
    changed, as they were (None: not there): with both the agent can have it all read again. `given_config` ({"name",
    "text"}) is a configuration file that was handed over for that. `succession` is set by an agent for the one that
    it becomes.
    """

    settings: Json
    queues: tuple[str, ...] = ()
    create_queue: bool = False
    order_fairness: bool = False
    foreground: bool = False
    gpus: str | None = None
    gpu_environment: Mapping[str, str] = field(default_factory=dict)
    gpu_suffix: str | None = None
    units: tuple[Json, ...] = ()
    links: tuple[tuple[str, str, str], ...] = ()
    share: float | None = None
    missing: tuple[str, ...] = ()
    services: int | None = None
    wishes: tuple[tuple[int, int], ...] = ()
    cpu_only: bool = False
    polling_interval_seconds: float | None = None
    child_report_tags: tuple[str, ...] = ()
    task_umask: int = 0o022
    standalone: bool = False
    optimize: int = 0
    log_level: str = "INFO"
    json_logs: bool = False
    arguments: tuple[str, ...] = ()
    environment_before: Mapping[str, str | None] = field(default_factory=dict)
    given_config: Json | None = None
    succession: Succession | None = None
    version: int = 1

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkerSetup:
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        for name in ("queues", "child_report_tags", "units", "missing", "arguments"):
            known[name] = tuple(known.get(name) or ())
        for name in ("links", "wishes"):
            known[name] = tuple(tuple(entry) for entry in known.get(name) or ())
        if known.get("succession"):
            known["succession"] = Succession(**known["succession"])
        return cls(**known)
