"""Where the GPUs of hosts come from: NVML on this host, or inventories that `inventory --json` has printed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.gpu.model import Inventory, Unknown
from agent.gpu.wire import Described, hosts_from_json

LOOK_SECONDS = 1.0


def one_host(inventory: str | None, host: str | None, wait_for_gpus: int = 0) -> Described:
    """The host to plan for: this one, or the one that an inventory file describes."""
    if inventory is None:
        return Described(host=host or own_name(), inventory=gpus_of_this_host(wait_for_gpus))
    found = list(hosts_in(inventory))
    chosen = [described for described in found if host in (None, described.host)] if len(found) > 1 else found
    if len(chosen) != 1:
        names = ", ".join(described.host for described in found[:5]) + (", …" if len(found) > 5 else "")
        raise ConfigError(
            f"{inventory} describes {len(found)} hosts" + (f", none of which is {host}" if not chosen else ""),
            hint=f"Choose one with --host: {names}" if found else "",
        )
    return Described(host=host or chosen[0].host or own_name(), inventory=chosen[0].inventory)


def hosts_in(inventory: str, unread: list[ConfigError] | None = None) -> Iterator[Described]:
    """The hosts of an inventory: a file of one or of many, or a folder of files named after their hosts.

    With `unread`, a file of a folder that cannot be read is put there, and costs the others nothing.
    """
    if inventory == "-":
        yield from hosts_from_json(_parsed(sys.stdin.read(), "standard input"), source="standard input")
        return
    path = Path(inventory)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{inventory}: no *.json file in this folder")
    for file in files:
        try:
            hosts = list(hosts_from_json(_parsed(_text_of(file), str(file)), source=str(file)))
        except ConfigError as error:
            if unread is None or len(files) == 1:
                raise
            unread.append(error)
            continue
        yield from (Described(host=each.host or file.stem, inventory=each.inventory) for each in hosts)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{file}: {reason}") from error


def gpus_of_this_host(wait_seconds: int = 0) -> Inventory:
    """What NVML says, after waiting for a driver that is still being loaded."""
    from agent.gpu.inventory import read_inventory

    deadline = time.monotonic() + wait_seconds
    while isinstance(found := read_inventory(with_peers=True), Unknown) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return found


def own_name() -> str:
    """The name of this host, as workers on it are called."""
    return os.uname().nodename


def _parsed(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not JSON: {error}") from error
