"""From files and variables to `Settings`: the layers, weakest first, merged once and validated together.

    reference.conf
    the folder named by CLEARML_CONFIG_PATH (each file is the section it is named after)
    ~/trains.conf, ~/clearml.conf                    or only the file named by --config-file / CLEARML_CONFIG_FILE
    CLEARML_AGENT__SECTION__KEY=value                any section, the value is HOCON
    the fixed variables of `keys.py`, such as CLEARML_API_HOST

There is no built-in server and no built-in key pair: a host without configuration is told so.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.config import hocon, schema
from agent.config.hosts import derived
from agent.config.keys import KEYS, Kind, Unexpected, expanded
from agent.config.schema import FileEntry, Json, Settings
from agent.errors import ConfigError

log = logging.getLogger(__name__)

REFERENCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference.conf")
USER_FILES = ("~/trains.conf", "~/clearml.conf")
FILE_VARIABLES = ("CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE")
FOLDER_VARIABLES = ("CLEARML_CONFIG_PATH", "TRAINS_CONFIG_PATH")
DYNAMIC_PREFIX = "CLEARML_AGENT__"
#: clearml-agent polls no faster than this, whatever a file says.
SHORTEST_POLLING_SECONDS = 5
POLLING = "agent.polling_interval_sec"

#: Variables of the storage providers and the places in the `sdk` section that they stand for.
STORAGE_VARIABLES = {
    "AWS_ACCESS_KEY_ID": ("sdk", "aws", "s3", "key"),
    "AWS_SECRET_ACCESS_KEY": ("sdk", "aws", "s3", "secret"),
    "AWS_DEFAULT_REGION": ("sdk", "aws", "s3", "region"),
    "GOOGLE_APPLICATION_CREDENTIALS": ("sdk", "google", "storage", "credentials_json"),
}
_TRY = "Run `clearml-agent init`, or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY."


@dataclass(frozen=True, slots=True)
class Layer:
    """Some of the configuration and where it was found."""

    source: str
    tree: Json


def load_settings(path: str | None, env: Mapping[str, str], *, needs_server: bool = True) -> Settings:
    """Read, merge and check the configuration of this host.

    `path` is the value of `--config-file`. ConfigError says which file and key is wrong, or, when `needs_server`,
    that there is no server or no credentials and which places were looked at.
    """
    layers = tuple(_file_layers(path, env))
    for layer in layers:
        _warn_unless_private(layer)
    settings = settings_from(layers, env)
    if needs_server:
        _check_server(settings, _places(path, env))
    return settings


def settings_from(layers: Sequence[Layer], env: Mapping[str, str]) -> Settings:
    """Merge `layers` and the variables in `env` over `reference.conf` and check the result."""
    reference = read_reference()
    layers = (*layers, *_dynamic_layers(env), *_variable_layers(env))
    for layer in layers:
        _check_sections(layer, layer.tree, reference)
        _warn_of_unknown_keys(layer, reference)
    configured: Json = {}
    for layer in layers:
        configured = hocon.merge(configured, layer.tree)
    configured = _with_storage_containers(configured, env)
    values = _field_values(hocon.merge(reference, configured), layers, env)
    _complete(values, configured)
    return Settings.from_json(
        {
            "api": values["api"],
            "agent": values["agent"],
            "environment": _environment(configured, layers),
            "files": [_file_entry(*entry, env, layers) for entry in _section(configured, "files").items()],
            "tree": configured,
            "sources": [layer.source for layer in layers],
        }
    )


def read_reference() -> Json:
    """The defaults, as a tree."""
    return hocon.parse(_read(REFERENCE), source=REFERENCE)


def effective_tree(settings: Settings) -> Json:
    """Every key with the value that counts: what was configured over the defaults."""
    tree = hocon.merge(read_reference(), settings.tree)
    for name in ("api_server", "web_server", "files_server"):
        tree["api"][name] = getattr(settings.api, name)
    tree["agent"]["worker_name"] = settings.agent.worker_name
    return tree


# Layers


def _file_layers(path: str | None, env: Mapping[str, str]) -> Iterator[Layer]:
    folder = _first_set(env, FOLDER_VARIABLES)
    if folder:
        yield from _folder_layers(expanded(folder, env))
    chosen = path or _first_set(env, FILE_VARIABLES)
    if chosen:
        yield _file_layer(expanded(chosen, env))
        return
    for name in USER_FILES:
        file = expanded(name, env)
        if os.path.isfile(file):
            yield _file_layer(file)


def _file_layer(file: str) -> Layer:
    return Layer(file, hocon.parse(_read(file), source=file, folder=os.path.dirname(file)))


def _folder_layers(folder: str) -> Iterator[Layer]:
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder}: no such folder", hint="It is named by CLEARML_CONFIG_PATH.")
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(".conf")):
            file = os.path.join(where, name)
            sections = os.path.relpath(file, folder).removesuffix(".conf").split(os.sep)
            yield Layer(file, _nested(sections, _file_layer(file).tree))


def _dynamic_layers(env: Mapping[str, str]) -> Iterator[Layer]:
    for name in sorted(env):
        parts = name.removeprefix(DYNAMIC_PREFIX).lower().split("__")
        if name.startswith(DYNAMIC_PREFIX) and all(parts) and env[name]:
            yield Layer(name, _nested(parts, hocon.parse_value(env[name], source=name)))


def _variable_layers(env: Mapping[str, str]) -> Iterator[Layer]:
    for key in KEYS:
        name = next((name for name in key.env if env.get(name)), "")
        if name:
            value = _read_value(key.env_kind, env[name], env, f"{name} is {env[name]!r}") if key.env_kind else env[name]
            yield Layer(name, _nested(key.key.split("."), value))
    for name, parts in STORAGE_VARIABLES.items():
        if env.get(name):
            yield Layer(name, _nested(parts, env[name]))


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or 'unreadable').lower()}", hint=_TRY) from error


def _places(path: str | None, env: Mapping[str, str]) -> list[str]:
    chosen = path or _first_set(env, FILE_VARIABLES)
    return [chosen] if chosen else [expanded(name, env) for name in USER_FILES]


# Values


def _field_values(tree: Json, layers: Sequence[Layer], env: Mapping[str, str]) -> dict[str, Json]:
    """Every field of `ApiSettings` and `AgentSettings`."""
    values: dict[str, Json] = {"api": {}, "agent": {}}
    for key in KEYS:
        found, source = _get(tree, key.key), _origin(layers, key.key)
        value = _read_value(key.kind, found, env, f"{source}: {key.key} is {_shown(key.key, found)}")
        if key.key == POLLING and source not in key.env and value < SHORTEST_POLLING_SECONDS:
            log.warning("%s: %s is raised to %s", source, key.key, SHORTEST_POLLING_SECONDS)
            value = float(SHORTEST_POLLING_SECONDS)
        _put(values, key.field.split("."), value)
    return values


def _read_value(kind: Kind, value: Any, env: Mapping[str, str], what: str) -> Any:
    try:
        return kind(value, env)
    except Unexpected as error:
        raise ConfigError(f"{what}, expected {error}") from error


def _complete(values: dict[str, Json], configured: Json) -> None:
    """Fill in what is derived when it is not configured: the servers' addresses and the worker's name."""
    api, agent = values["api"], values["agent"]
    api["api_server"] = api["api_server"] or str(_get(configured, "api.host") or "")
    for name, wanted in (("web_server", "web"), ("files_server", "files")):
        api[name] = api[name] or derived(api["api_server"], wanted)
    for name in ("api_server", "web_server", "files_server"):
        api[name] = api[name].rstrip("/")
    agent["worker_name"] = agent["worker_name"] or os.uname().nodename


def _with_storage_containers(tree: Json, env: Mapping[str, str]) -> Json:
    """The Azure account of the environment, after the containers of the files."""
    account, key = env.get("AZURE_STORAGE_ACCOUNT"), env.get("AZURE_STORAGE_KEY")
    if not account or not key:
        return tree
    known = _get(tree, "sdk.azure.storage.containers")
    containers = [*(known if isinstance(known, list) else []), {"account_name": account, "account_key": key}]
    return hocon.merge(tree, _nested(("sdk", "azure", "storage", "containers"), containers))


# The `environment` and `files` sections


def _section(tree: Json, name: str) -> Json:
    section: Json = tree.get(name, {})
    return section


def _environment(tree: Json, layers: Sequence[Layer]) -> dict[str, str]:
    variables = {}
    for name, value in _section(tree, "environment").items():
        if isinstance(value, (dict, list)):
            source = _origin(layers, f"environment.{name}")
            raise ConfigError(f"{source}: environment.{name} is not a single value, expected NAME: value")
        variables[name] = _as_written(value)
    return variables


def _as_written(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file_entry(name: str, entry: Any, env: Mapping[str, str], layers: Sequence[Layer]) -> Json:
    where = f"{_origin(layers, f'files.{name}')}: files.{name}"
    if not isinstance(entry, dict) or not entry.get("path"):
        raise ConfigError(f"{where} has no path", hint="An entry is NAME { path: ..., contents: ... }.")
    unknown = set(entry) - set(FileEntry.__dataclass_fields__)
    if unknown:
        log.warning("%s.%s is not a key the agent knows", where, sorted(unknown)[0])
    mode = entry.get("mode")
    try:
        bits = None if mode in (None, "") else int(str(mode).lower().removeprefix("0o"), 8)
    except ValueError as error:
        raise ConfigError(f'{where}.mode is {mode!r}, expected octal digits such as "0o600"') from error
    return {
        "name": name,
        "path": expanded(str(entry["path"]), env),
        "contents": entry.get("contents", ""),
        "format": str(entry.get("format") or ""),
        "target_format": str(entry.get("target_format") or ""),
        "overwrite": entry.get("overwrite") not in (False, "false", "no"),
        "mode": bits,
    }


# Complaints


def _check_server(settings: Settings, places: Sequence[str]) -> None:
    if settings.api.api_server:
        if settings.api.auth_token or (settings.api.access_key and settings.api.secret_key):
            return
        raise ConfigError(f"no credentials for {settings.api.api_server}", hint=_TRY)
    files = [source for source in settings.sources if os.sep in source]
    if files:
        raise ConfigError(f"api.api_server is not set in {' or '.join(files)}", hint=_TRY)
    raise ConfigError(f"no configuration found: looked for {', '.join(places)} and CLEARML_API_HOST", hint=_TRY)


def _warn_unless_private(layer: Layer) -> None:
    mode = os.stat(layer.source).st_mode
    if mode & stat.S_IROTH and next(schema.secret_values(layer.tree), None):
        log.warning("%s holds secrets and is readable by everybody; try: chmod 600 %s", layer.source, layer.source)


def _check_sections(layer: Layer, tree: Json, reference: Json, prefix: str = "") -> None:
    for name, value in tree.items():
        known = reference.get(name)
        if isinstance(known, dict):
            if not isinstance(value, dict):
                raise ConfigError(f"{layer.source}: {prefix}{name} is {_shown(name, value)}, expected a section")
            _check_sections(layer, value, known, f"{prefix}{name}.")


def _warn_of_unknown_keys(layer: Layer, reference: Json) -> None:
    for key, known in _unknown(layer.tree, reference):
        close = _closest(key.rpartition(".")[2], known)
        guess = f"; did you mean {close}?" if close else ""
        log.warning("%s: %s is not a key the agent knows%s", layer.source, key, guess)


def _unknown(tree: Json, reference: Json, prefix: str = "") -> Iterator[tuple[str, Iterable[str]]]:
    for name, value in tree.items():
        known = reference.get(name, tree)
        if name not in reference:
            yield prefix + name, reference
        elif isinstance(value, dict) and isinstance(known, dict) and known:
            yield from _unknown(value, known, f"{prefix}{name}.")


def _closest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def _origin(layers: Sequence[Layer], key: str) -> str:
    """The layer that had the last word on `key`."""
    missing = object()
    for layer in reversed(layers):
        if _get(layer.tree, key, missing) is not missing:
            return layer.source
    return REFERENCE


def _shown(key: str, value: Any) -> str:
    return "***" if schema.is_secret_key(key) else repr(value)


# Trees


def _get(tree: Json, key: str, default: Any = None) -> Any:
    value: Any = tree
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return default
        value = value[name]
    return value


def _put(tree: Json, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _nested(path: Sequence[str], value: Any) -> Json:
    tree: Json = {path[-1]: value}
    for name in reversed(path[:-1]):
        tree = {name: tree}
    return tree


def _first_set(env: Mapping[str, str], names: Iterable[str]) -> str:
    return next((env[name] for name in names if env.get(name)), "")
