"""Environments of the processes we start, composed as values: nothing here reads or changes `os.environ`.

Three layers of trust meet in the environment of a task's process. The host's variables come first (a task expects
HOME, LANG, proxies, cloud credentials), then what the operator configured, then what the task asks for, and last what
the agent itself vouches for: which GPUs the task has and which task it is. What belongs to the agent alone is taken
out at the bottom: git passwords, API secrets, the notification socket of the service manager, the agent's own
virtual environment. The names are those that `clearml-agent` gives to a task and the SDK reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: What every process of a run carries: the run directory. Who outlives the executor is found by it.
RUN = "GPUFLEET_RUN"
#: Names that never reach a child: the agent's credentials, its service manager and its own interpreter.
PRIVATE = frozenset(
    {
        "CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY", "CLEARML_AUTH_TOKEN",
        "TRAINS_API_ACCESS_KEY", "TRAINS_API_SECRET_KEY", "TRAINS_AUTH_TOKEN",
        "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID",
        "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "CONFIGURATION_DIRECTORY",
        "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONOPTIMIZE",
        "PYTHONSAFEPATH", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__", "PS1",
        "CLEARML_AGENT_HOLD_FILE", "GPUFLEET_VERSION", "GPUFLEET_STEPS", RUN,
        "CLEARML_APT_INSTALL", "TRAINS_APT_INSTALL", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON",
        "UV_INTERNAL__PARENT_INTERPRETER",
    }
)  # fmt: skip
PRIVATE_PREFIXES = (
    "CLEARML_AGENT_GIT_", "TRAINS_AGENT_GIT_", "CLEARML_AGENT__", "TRAINS_AGENT__", "SUPERVISOR_", "UV_PYTHON_",
)  # fmt: skip
#: What git tells its hooks and aliases about *their* repository; a checkout of ours is another one.
GIT_LOCAL = frozenset(
    {
        "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT",
        "GIT_CEILING_DIRECTORIES", "GIT_EXTERNAL_DIFF", "GIT_TRACE", "GIT_CURL_VERBOSE", "GIT_TRACE_CURL",
    }
)  # fmt: skip


def inherited(environ: Mapping[str, str], *, agent_bin: str | None) -> dict[str, str]:
    """The host's environment without what is the agent's own.

    `agent_bin` is the folder of the agent's virtual environment that holds its programs (None: it runs in none);
    it leaves the PATH, so that a task's `python` and `pip` are never the agent's.
    """
    kept = {name: value for name, value in environ.items() if not _is_private(name)}
    if agent_bin is not None and "PATH" in kept:
        kept["PATH"] = ":".join(folder for folder in kept["PATH"].split(":") if folder.rstrip("/") != agent_bin)
    return kept


def _is_private(name: str) -> bool:
    return name in PRIVATE or name.startswith(PRIVATE_PREFIXES)


def for_commands(base: Mapping[str, str], configured: Mapping[str, str]) -> dict[str, str]:
    """What git and the installers see: the host's environment, plus the `environment` section (proxies, mostly)."""
    merged = {**base, **configured}
    return {name: value for name, value in merged.items() if name not in GIT_LOCAL}


def task_section(hyperparams: Mapping[str, Mapping[str, Mapping[str, object]]]) -> dict[str, str]:
    """The section `Environment` of a task's hyperparameters as variables, without entries that cannot be one."""
    found: dict[str, str] = {}
    for key, entry in (hyperparams.get("Environment") or {}).items():
        value = entry.get("value") if isinstance(entry, Mapping) else entry
        name = str(entry.get("name") or key) if isinstance(entry, Mapping) else key
        if name and "=" not in name and "\0" not in name and value is not None:
            found[name] = str(value).replace("\0", "")
    return found


def for_task(
    base: Mapping[str, str],
    *,
    configured: Mapping[str, str],
    section: Mapping[str, str],
    given: Mapping[str, str],
    identity: Mapping[str, str],
    python_path: Sequence[str],
    env_root: str | None,
) -> dict[str, str]:
    """The environment of a task's process, weakest layer first.

    `configured` is the `environment` section of the configuration, `section` the task's own, `given` what the agent
    decided (visible GPUs), `identity` the CLEARML_* variables that tell the SDK where it runs; the latter are
    mirrored to their TRAINS_* twins. `env_root` is the virtual environment whose programs come first on the PATH.
    """
    merged = {**base, **configured, **section}
    searched = [*python_path, merged.get("PYTHONPATH", "")]
    merged.update(given)
    merged.update(with_twins(identity))
    merged["PYTHONPATH"] = ":".join(part for part in searched if part)
    merged["PYTHONUNBUFFERED"] = "1"
    if "CUDA_VISIBLE_DEVICES" in merged or "NVIDIA_VISIBLE_DEVICES" in merged:
        merged.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if not _speaks_utf8(merged):
        merged.setdefault("PYTHONIOENCODING", "utf-8")
    if env_root is not None:
        merged["VIRTUAL_ENV"] = env_root
        merged["PATH"] = ":".join(part for part in (f"{env_root}/bin", merged.get("PATH", "")) if part)
    return merged


def with_twins(variables: Mapping[str, str]) -> dict[str, str]:
    """Every CLEARML_* variable under its TRAINS_* name too, for SDKs of before the rename."""
    twins = {f"TRAINS_{name[8:]}": value for name, value in variables.items() if name.startswith("CLEARML_")}
    return {**variables, **twins}


def without_repeats(parts: Iterable[str]) -> tuple[str, ...]:
    """The parts in order, each once."""
    return tuple(dict.fromkeys(part for part in parts if part))


def _speaks_utf8(environ: Mapping[str, str]) -> bool:
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    return "utf" in locale.lower()
