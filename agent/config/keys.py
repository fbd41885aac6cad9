"""Which key fills which field: one table, with what a value has to look like and which variables set it.

A key has one kind; a kind turns what a file or a variable says into the field's value, or says what it expected.
Variables are text, so every kind reads text too. An empty variable counts as unset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Kind = Callable[[Any, Mapping[str, str]], Any]

_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class Unexpected(Exception):
    """A value that its kind cannot read; the message says what was expected."""


def text(value: Any, env: Mapping[str, str]) -> str:
    """A text; a number is taken as it is written, null as empty."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unexpected("a text")
    return str(value)


def flag(value: Any, env: Mapping[str, str]) -> bool:
    """True or false, also as yes/no, on/off, y/n, t/f, 1/0."""
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Unexpected("true or false")


def flag_or_text(value: Any, env: Mapping[str, str]) -> bool | str:
    """A switch, or anything else as text (a path)."""
    try:
        return flag(value, env)
    except Unexpected:
        return text(value, env)


def switch_or_text(value: Any, env: Mapping[str, str]) -> str:
    """Empty for no, "true" for yes, anything else (a path) as it is."""
    if value is None or value == "":
        return ""
    read = flag_or_text(value, env)
    return read if isinstance(read, str) else ("true" if read else "")


def number(value: Any, env: Mapping[str, str]) -> float:
    """A number, zero or more."""
    try:
        parsed = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        parsed = float("nan")
    if not 0 <= parsed < float("inf"):
        raise Unexpected("a number, zero or more")
    return parsed


def whole(value: Any, env: Mapping[str, str]) -> int:
    """A whole number, zero or more."""
    try:
        parsed = number(value, env)
    except Unexpected:
        parsed = 0.5
    if parsed != int(parsed):
        raise Unexpected("a whole number, zero or more")
    return int(parsed)


def wholes(value: Any, env: Mapping[str, str]) -> tuple[int, ...]:
    """A list of whole numbers; null is a list of none."""
    if value is None or value == "":
        return ()
    if not isinstance(value, (list, tuple)):
        raise Unexpected("a list of whole numbers")
    return tuple(whole(entry, env) for entry in value)


def texts(value: Any, env: Mapping[str, str]) -> tuple[str, ...]:
    """A list of texts; one text is a list of one, null and the empty text a list of none."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise Unexpected("a list of texts")
    return tuple(text(entry, env) for entry in value)


def words(value: Any, env: Mapping[str, str]) -> tuple[str, ...]:
    """A list of texts; a text is split as a shell would."""
    if not isinstance(value, str):
        return texts(value, env)
    import shlex

    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise Unexpected("a list of texts, or a text with matching quotes") from error


def entries(value: Any, env: Mapping[str, str]) -> tuple[str, ...]:
    """A list of texts from one text, separated by semicolons."""
    return tuple(entry for part in text(value, env).split(";") if (entry := part.strip()))


def path(value: Any, env: Mapping[str, str]) -> str:
    """A path, made absolute; `~` and variables are replaced. Empty stays empty."""
    plain = text(value, env)
    return expanded(plain, env) if plain else ""


def first_path(value: Any, env: Mapping[str, str]) -> str:
    """The first of several paths separated by colons, as systemd sets STATE_DIRECTORY."""
    return path(text(value, env).split(":")[0], env)


def optional(kind: Kind) -> Kind:
    """The same kind, with null and the empty text as None."""

    def read(value: Any, env: Mapping[str, str]) -> Any:
        return None if value is None or value == "" else kind(value, env)

    return read


def one_of(*choices: str) -> Kind:
    """One of these words, in any case."""

    def read(value: Any, env: Mapping[str, str]) -> str:
        word = str(value).lower()
        if word not in choices:
            raise Unexpected(" or ".join(choices))
        return word

    return read


def credentials(value: Any, env: Mapping[str, str]) -> tuple[dict[str, str], ...]:
    """A list of objects with host, user (or username) and pass (or password)."""
    entries: list[Any] = list(value) if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise Unexpected("a list of objects with host, user and pass")
    return tuple(
        {
            "host": text(entry.get("host"), env),
            "user": text(entry.get("user", entry.get("username")), env),
            "password": text(entry.get("pass", entry.get("password")), env),
        }
        for entry in entries
    )


def expanded(plain: str, env: Mapping[str, str]) -> str:
    """`~` and `$NAME` replaced from `env`, the rest made absolute."""
    plain = _VARIABLE.sub(lambda found: env.get(found[1] or found[2], found[0]), plain)
    home = env.get("HOME")
    if home and (plain == "~" or plain.startswith("~/")):
        plain = home + plain[1:]
    return os.path.abspath(os.path.expanduser(plain))


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of the configuration, the field of `Settings` it fills, its kind and the variables that set it."""

    key: str
    field: str
    kind: Kind
    env: tuple[str, ...] = ()
    env_kind: Kind | None = None


def _twins(name: str, *more: str) -> tuple[str, ...]:
    return (f"CLEARML_{name}", f"TRAINS_{name}", *more)


def _key(key: str, kind: Kind, *, field: str = "", env: tuple[str, ...] = (), env_kind: Kind | None = None) -> Key:
    return Key(key=key, field=field or key, kind=kind, env=env, env_kind=env_kind)


def _uv_if_forced(value: Any, env: Mapping[str, str]) -> str:
    if not flag(value, env):
        raise Unexpected("true, or unset")
    return "uv"


def _seconds(key: str, *, kind: Kind = number, env: tuple[str, ...] = (), field: str = "") -> Key:
    return _key(key, kind, field=field or key.removesuffix("_sec") + "_seconds", env=env)


_PACKAGES = "agent.package_manager."

KEYS: tuple[Key, ...] = (
    _key("api.api_server", text, env=_twins("API_HOST")),
    _key("api.web_server", text, env=_twins("WEB_HOST")),
    _key("api.files_server", text, env=_twins("FILES_HOST")),
    _key("api.credentials.access_key", text, field="api.access_key", env=_twins("API_ACCESS_KEY")),
    _key("api.credentials.secret_key", text, field="api.secret_key", env=_twins("API_SECRET_KEY")),
    _key("api.auth_token", text, env=("CLEARML_AUTH_TOKEN",)),
    _key("api.verify_certificate", flag_or_text, env=("CLEARML_API_HOST_VERIFY_CERT",)),
    _key("api.http.max_req_size", whole, field="api.max_request_bytes"),
    _key(
        "api.http.default_method",
        one_of("post", "get", "put"),
        field="api.default_method",
        env=("CLEARML_API_DEFAULT_REQ_METHOD",),
    ),
    _seconds("api.http.connect_timeout_sec", field="api.connect_timeout_seconds"),
    _seconds("api.http.read_timeout_sec", field="api.read_timeout_seconds"),
    _seconds("api.auth.token_expiration_threshold_sec", field="api.token_expiration_threshold_seconds"),
    _seconds(
        "api.auth.request_token_expiration_sec",
        kind=optional(number),
        field="api.request_token_expiration_seconds",
    ),
    _key("agent.worker_id", text, env=_twins("WORKER_ID")),
    _key("agent.worker_name", text, env=_twins("WORKER_NAME")),
    _key("agent.state_dir", path, env=("STATE_DIRECTORY",), env_kind=first_path),
    _key("agent.cpu_only", flag, env=_twins("CPU_ONLY", "CPU_ONLY")),
    _key("agent.git_user", text, env=("CLEARML_AGENT_GIT_USER",)),
    _key("agent.git_pass", text, env=("CLEARML_AGENT_GIT_PASS",)),
    _key("agent.git_host", text, env=("CLEARML_AGENT_GIT_HOST",)),
    _key("agent.git_host_match_prefix", flag),
    _key("agent.git.extra_credentials", credentials, field="agent.extra_git_credentials"),
    _key("agent.force_git_ssh_protocol", flag),
    _key("agent.force_git_ssh_port", optional(whole)),
    _key("agent.force_git_ssh_user", text),
    _key("agent.translate_ssh", flag),
    _key("agent.translate_ssl_replacement_scheme", text, env=("CLEARML_AGENT_SSH_URL_REPLACEMENT_SCHEME",)),
    _key("agent.vcs_cache.enabled", flag),
    _key("agent.vcs_cache.path", path),
    _key("agent.vcs_cache.clone_on_pull_fail", flag),
    _key("agent.python_binary", text),
    _key("agent.ignore_requested_python_version", flag),
    _key("agent.force_git_root_python_path", flag),
    _key("agent.extra_python_path", text, env=("CLEARML_AGENT_EXTRA_PYTHON_PATH",)),
    _key("agent.skip_python_env_install", flag, env=("CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL",)),
    _key("agent.skip_pip_venv_install", switch_or_text, env=("CLEARML_AGENT_SKIP_PIP_VENV_INSTALL",)),
    _key("agent.enable_task_env", flag),
    _key("agent.cuda_version", text, env=_twins("CUDA_VERSION", "CUDA_VERSION")),
    _key("agent.cudnn_version", text, env=_twins("CUDNN_VERSION", "CUDNN_VERSION")),
    _key("agent.venvs_cache.path", path, env=("CLEARML_AGENT_VENV_CACHE_PATH",)),
    _key("agent.venvs_cache.max_entries", whole),
    _key("agent.venvs_cache.free_space_threshold_gb", number),
    _seconds("agent.venvs_cache.lock_timeout"),
    _key("agent.pip_download_cache.enabled", flag),
    _key("agent.pip_download_cache.path", path),
    _key(
        _PACKAGES + "type",
        one_of("uv", "pip", "conda", "poetry"),
        env=("CLEARML_AGENT_FORCE_UV",),
        env_kind=_uv_if_forced,
    ),
    _key(_PACKAGES + "pip_version", texts),
    _key(_PACKAGES + "system_site_packages", flag),
    _key(_PACKAGES + "force_upgrade", flag),
    _key(_PACKAGES + "extra_index_url", texts),
    _key(_PACKAGES + "extra_pip_install_flags", words, env=("CLEARML_EXTRA_PIP_INSTALL_FLAGS",)),
    _key(_PACKAGES + "priority_packages", texts),
    _key(_PACKAGES + "priority_optional_packages", texts),
    _key(_PACKAGES + "post_packages", texts),
    _key(_PACKAGES + "post_optional_packages", texts),
    _key(_PACKAGES + "force_repo_requirements_txt", flag),
    _key(_PACKAGES + "force_original_requirements", flag),
    _key(_PACKAGES + "uv_binary", text, env=("CLEARML_BOOTSTRAP_UV_EXEC",)),
    _key(_PACKAGES + "uv_unsafe_best_match", flag),
    _seconds("agent.polling_interval_sec", env=("CLEARML_AGENT_QUEUE_POLL_FREQ_SEC",)),
    _seconds("agent.status_report_interval_sec", env=("CLEARML_AGENT_STATUS_REPORT_FREQ_SEC",)),
    _seconds("agent.status_poll_sec"),
    _seconds("agent.task_ping_interval_sec"),
    _seconds("agent.stop_grace_sec"),
    _seconds("agent.abort_callback_max_timeout"),
    _key("agent.suppress_carriage_return", flag),
    _seconds("agent.progress_line_interval_sec"),
    _key("agent.crash_on_exception", flag, env=("CLEARML_AGENT_CRASH_ON_EXCEPTION",)),
    _key("agent.apply_environment", flag, env=("CLEARML_AGENT_ENABLE_ENV_CONFIG_SECTION",)),
    _key("agent.apply_files", flag, env=("CLEARML_AGENT_ENABLE_FILES_CONFIG_SECTION",)),
    _key("agent.uptime", texts, env=("CLEARML_AGENT_UPTIME",), env_kind=entries),
    _key("agent.downtime", texts, env=("CLEARML_AGENT_DOWNTIME",), env_kind=entries),
    _key("agent.timezone", text, env=("CLEARML_AGENT_TIMEZONE",)),
    _key("agent.at_closing.task", one_of("finish", "stop", "requeue"), env=("CLEARML_AGENT_AT_CLOSING",)),
    _seconds("agent.at_closing.grace_sec", env=("CLEARML_AGENT_AT_CLOSING_GRACE_SEC",)),
    _key("agent.gpu_leases_dir", path, env=("CLEARML_AGENT_GPU_LEASES_DIR",)),
    _seconds("agent.dynamic_gpus.reserve_after_sec", kind=optional(number)),
    _key("agent.dynamic_gpus.foreign_processes", one_of("veto", "ignore")),
    _key("agent.gpu_sharing.least_free_memory", number),
    _key("agent.gpu_sharing.mps", flag),
    _seconds("agent.health.interval_sec"),
    _seconds("agent.health.answer_sec"),
    _key("agent.health.ignored_xids", wholes),
    _seconds("agent.health.xid_quiet_sec"),
    _key("agent.health.least_free_disk_gb", number),
    _key("agent.health.failures_in_a_row", whole),
    _key("agent.resource_monitoring.default_gpu_utilization", optional(number)),
    _key("agent.resource_monitoring.disk_use_path", path),
)
