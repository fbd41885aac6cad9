"""The settings that a host has made for pip, for installers that do not read them.

Operators point pip at a mirror, a folder of wheels or a certificate in `pip.conf` or by PIP_* variables, and
`clearml-agent` has honoured that because it ran pip. uv reads neither. What can be said to uv is translated; files come
weakest first, variables last, as pip itself does it (pip user guide, "Configuration").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SECTIONS = ("global", "install")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """One configuration file of pip: its path and its text."""

    path: str
    text: str


def config_files(environ: Mapping[str, str]) -> tuple[ConfigFile, ...]:
    """The files pip would read, weakest first. PIP_CONFIG_FILE set to /dev/null switches all of them off."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return ()
    home = environ.get("HOME") or os.path.expanduser("~")
    system = [f"{folder}/pip/pip.conf" for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
    user = f"{environ.get('XDG_CONFIG_HOME') or home + '/.config'}/pip/pip.conf"
    found = []
    for path in (*system, "/etc/pip.conf", f"{home}/.pip/pip.conf", user, *([named] if named else ())):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found.append(ConfigFile(path=path, text=file.read()))
        except OSError:
            continue
    return tuple(found)


def settings(files: Sequence[ConfigFile], environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options that are set on this host, by their long names without dashes in front."""
    merged: dict[str, str] = {}
    for file in files:
        merged.update(_read(file))
    for name, value in environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            merged[name[4:].lower().replace("_", "-")] = value
    return merged


def _read(file: ConfigFile) -> dict[str, str]:
    import configparser

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.text)
    except configparser.Error:
        return {}
    return {
        name.replace("_", "-"): value
        for section in _SECTIONS
        if parser.has_section(section)
        for name, value in parser.items(section)
        if value
    }


def for_uv(found: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The same wishes in the variables that uv reads; what is already said to uv stays said."""
    wanted = {
        "UV_DEFAULT_INDEX": found.get("index-url", ""),
        "UV_INDEX": " ".join(found.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(found.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(found.get("trusted-host", "").split()),
        "UV_CONSTRAINT": " ".join(found.get("constraint", "").split()),
        "UV_HTTP_TIMEOUT": found.get("timeout", "") or found.get("default-timeout", ""),
        "UV_NO_INDEX": "1" if _is_true(found.get("no-index", "")) else "",
        "UV_PRERELEASE": "allow" if _is_true(found.get("pre", "")) else "",
        "SSL_CERT_FILE": found.get("cert", ""),
        "SSL_CLIENT_CERT": found.get("client-cert", ""),
        "ALL_PROXY": found.get("proxy", ""),
    }
    older = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
    return {
        name: value
        for name, value in wanted.items()
        if value and not environ.get(name) and not environ.get(older.get(name, ""), "")
    }


def _is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")
