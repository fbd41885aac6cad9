"""The configuration after it was read: frozen, typed, complete, and cheap to load.

The daemon and the executor get these values as JSON from whoever parsed the files, so this module imports nothing
but `dataclasses`. It holds no defaults: they are in `reference.conf` and nowhere else. Which key of a
configuration file fills which field is the table in `keys.py`; `load.py` does the filling.

Names follow the keys of `clearml.conf`, with units spelt out (`task_ping_interval_sec` becomes
`task_ping_interval_seconds`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from agent.errors import ConfigError

Json = dict[str, Any]
T = TypeVar("T")

#: A value under a key that contains one of these is not for other eyes.
SECRET_KEYS = ("secret", "pass", "token", "account_key", "private_key")
_TIMES = ("_sec", "_seconds")  # token_expiration_threshold_sec
#: Shorter values are not worth hiding: replacing every "1" of a log says more than it hides.
SHORTEST_SECRET = 4
_WORDS = frozenset({"true", "false", "none", "null"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where the API server is and how to talk to it. `verify_certificate` is a switch or the path of a CA bundle."""

    api_server: str
    web_server: str
    files_server: str
    access_key: str
    secret_key: str = field(repr=False)
    auth_token: str = field(repr=False)
    verify_certificate: bool | str
    default_method: str
    token_expiration_threshold_seconds: float
    request_token_expiration_seconds: float | None
    connect_timeout_seconds: float
    read_timeout_seconds: float
    max_request_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GitCredential:
    """One entry of `agent.git.extra_credentials`: a user and password for a host."""

    host: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VcsCacheSettings:
    """Mirrors of the repositories that tasks came from, shared by the agents of a host."""

    enabled: bool
    path: str
    clone_on_pull_fail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VenvsCacheSettings:
    """Environments kept for tasks that ask for the same again. An empty `path` switches the cache off."""

    path: str
    max_entries: int
    free_space_threshold_gb: float
    lock_timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PipDownloadCacheSettings:
    """Wheels that requirements name by URL."""

    enabled: bool
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageManagerSettings:
    """Who installs a task's packages, from where and in which order. `type` is "uv", "pip", "conda" or "poetry"."""

    type: str
    pip_version: tuple[str, ...]
    system_site_packages: bool
    force_upgrade: bool
    extra_index_url: tuple[str, ...]
    extra_pip_install_flags: tuple[str, ...]
    priority_packages: tuple[str, ...]
    priority_optional_packages: tuple[str, ...]
    post_packages: tuple[str, ...]
    post_optional_packages: tuple[str, ...]
    force_repo_requirements_txt: bool
    force_original_requirements: bool
    uv_binary: str
    uv_unsafe_best_match: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceMonitoringSettings:
    """What `machine_stats` says. A `default_gpu_utilization` of None leaves unreadable GPUs out."""

    default_gpu_utilization: float | None
    disk_use_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AtClosingSettings:
    """What happens to a running task when the working hours end: `task` is "finish", "stop" or "requeue"."""

    task: str
    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicGpuSettings:
    """How GPUs are shared out to tasks.

    `foreign_processes` is "veto" or "ignore"; a `reserve_after_seconds` of None reserves nothing.
    """

    reserve_after_seconds: float | None
    foreign_processes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSharingSettings:
    """Agents that share a GPU: which part of its share must be free memory for a task to start, and MPS."""

    least_free_memory: float
    mps: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """When a host is not fit for tasks. An `interval_seconds` of 0 judges nothing; so does 0 for disks and failures."""

    interval_seconds: float
    answer_seconds: float
    ignored_xids: tuple[int, ...]
    xid_quiet_seconds: float
    least_free_disk_gb: float
    failures_in_a_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """The `agent { }` section."""

    worker_id: str
    worker_name: str
    state_dir: str
    cpu_only: bool

    git_user: str
    git_pass: str = field(repr=False)
    git_host: str
    git_host_match_prefix: bool
    extra_git_credentials: tuple[GitCredential, ...]
    force_git_ssh_protocol: bool
    force_git_ssh_port: int | None
    force_git_ssh_user: str
    translate_ssh: bool
    translate_ssl_replacement_scheme: str
    vcs_cache: VcsCacheSettings

    python_binary: str
    ignore_requested_python_version: bool
    force_git_root_python_path: bool
    extra_python_path: str
    skip_python_env_install: bool
    skip_pip_venv_install: str
    enable_task_env: bool
    cuda_version: str
    cudnn_version: str
    venvs_cache: VenvsCacheSettings
    pip_download_cache: PipDownloadCacheSettings
    package_manager: PackageManagerSettings

    uptime: tuple[str, ...]
    downtime: tuple[str, ...]
    timezone: str
    at_closing: AtClosingSettings
    gpu_leases_dir: str
    dynamic_gpus: DynamicGpuSettings
    gpu_sharing: GpuSharingSettings
    health: HealthSettings

    polling_interval_seconds: float
    status_report_interval_seconds: float
    status_poll_seconds: float
    task_ping_interval_seconds: float
    stop_grace_seconds: float
    abort_callback_max_timeout_seconds: float
    suppress_carriage_return: bool
    progress_line_interval_seconds: float
    crash_on_exception: bool
    apply_environment: bool
    apply_files: bool
    resource_monitoring: ResourceMonitoringSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of the `files { }` section: a file to be there before a task runs.

    `contents` is text, or any value where `target_format` says how to write it; `mode` is None where none was given.
    """

    name: str
    path: str
    contents: Any = field(repr=False)
    format: str
    target_format: str
    overwrite: bool
    mode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of the configuration.

    `environment` and `files` are the sections of these names. `tree` is what was configured, as plain dictionaries
    and without the defaults, for what has no field here (the `sdk` section goes to the SDK as it is). `sources`
    names the files and variables it came from, weakest first.
    """

    api: ApiSettings
    agent: AgentSettings
    environment: Mapping[str, str] = field(repr=False)
    files: tuple[FileEntry, ...]
    tree: Json = field(repr=False)
    sources: tuple[str, ...]

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Undo `to_json`, also after a trip through `json`; ConfigError where a field is missing."""
        return cls(
            api=_record(ApiSettings, data["api"]),
            agent=_agent(data["agent"]),
            environment=dict(data["environment"]),
            files=tuple(_record(FileEntry, entry) for entry in data["files"]),
            tree=data["tree"],
            sources=tuple(data["sources"]),
        )


_GROUPS: Mapping[str, type] = {
    "vcs_cache": VcsCacheSettings,
    "venvs_cache": VenvsCacheSettings,
    "pip_download_cache": PipDownloadCacheSettings,
    "package_manager": PackageManagerSettings,
    "resource_monitoring": ResourceMonitoringSettings,
    "at_closing": AtClosingSettings,
    "dynamic_gpus": DynamicGpuSettings,
    "gpu_sharing": GpuSharingSettings,
    "health": HealthSettings,
}


def _agent(data: Mapping[str, Any]) -> AgentSettings:
    grouped: Json = {name: _record(group, data[name]) for name, group in _GROUPS.items()}
    credentials = tuple(_record(GitCredential, entry) for entry in data["extra_git_credentials"])
    return _record(AgentSettings, {**data, **grouped, "extra_git_credentials": credentials})


def _record(cls: type[T], data: Mapping[str, Any]) -> T:
    fields: Mapping[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    missing = [name for name in fields if name not in data]
    if missing:
        raise ConfigError(
            f"a set-up file lacks {', '.join(missing)} of {cls.__name__}",
            hint="It was written by another version of the agent; start the agent again.",
        )
    return cls(**{name: tuple(v) if isinstance(v := data[name], list) else v for name in fields})


def sdk_config(settings: Settings) -> Json:
    """What a task's process gets as its own `clearml.conf` (JSON is HOCON).

    The `api`, `sdk` and `logging` sections as they were configured, with what the agent resolved laid over them.
    Nothing of the `agent` section goes along: the SDK needs none of it, and it holds the git credentials.
    """
    api = settings.api
    return {
        "api": {
            **settings.tree.get("api", {}),
            "api_server": api.api_server,
            # the SDK ends a task whose server has no web address, though it only prints it
            "web_server": api.web_server or api.api_server,
            **({"files_server": api.files_server} if api.files_server else {}),
            "verify_certificate": api.verify_certificate,
            "credentials": {"access_key": api.access_key, "secret_key": api.secret_key},
        },
        **{name: settings.tree[name] for name in ("sdk", "logging") if name in settings.tree},
    }


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The values that must not be printed, logged or sent, longest first."""
    named = {"secret": settings.api.secret_key, "token": settings.api.auth_token, "pass": settings.agent.git_pass}
    found = {*secret_values(named), *secret_values(settings.tree), *secret_values(settings.environment)}
    found.update(secret_values([{"pass": entry.password} for entry in settings.agent.extra_git_credentials]))
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def is_secret_key(key: str) -> bool:
    """Whether the value under this key is to be masked."""
    lowered = key.lower()
    return any(part in lowered for part in SECRET_KEYS) and not lowered.endswith(_TIMES)


def secret_values(tree: object, *, secret: bool = False) -> Iterator[str]:
    """The texts in `tree` that are under a secret key, at any depth."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from secret_values(value, secret=secret or is_secret_key(str(key)))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from secret_values(value, secret=secret)
    elif secret and isinstance(tree, str | int | float) and not isinstance(tree, bool):
        text = str(tree)
        if len(text) >= SHORTEST_SECRET and text.lower() not in _WORDS:
            yield text
