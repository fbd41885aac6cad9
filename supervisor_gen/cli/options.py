"""The options that the commands share, and what becomes of them: a topology, hosts with their GPUs, a plan."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.errors import ConfigError
from agent.gpu.model import Inventory, Unknown
from agent.gpu.wire import Described, hosts_from_json
from supervisor_gen import state
from supervisor_gen.emitters import EMITTERS, Emitter, pick
from supervisor_gen.model import HostPlan, Site, Topology
from supervisor_gen.plan import plan_host
from supervisor_gen.topology import read_topology

F = TypeVar("F", bound=Callable[..., Any])

TOPOLOGY = "etc/gpufleet/topology.conf"
LOOK_SECONDS = 1.0

_TOPOLOGY = click.option(
    "--topology", metavar="FILE", help=f"The declared agents (HOCON); /{TOPOLOGY} below the root without it."
)
_INVENTORY = click.option(
    "--inventory",
    metavar="FILE",
    help="GPUs as `inventory --json` prints them, not those of this host; - is standard input.",
)
_HOST = click.option(
    "--host", metavar="NAME", help="Plan for this host name; that of the inventory or our own without it."
)
_ROOT = click.option("--root", default="/", metavar="DIR", help="Where the host's file system begins; / without it.")
_FORMAT = click.option(
    "--format", "format_", type=click.Choice(tuple(EMITTERS)), default="systemd", help="Who supervises the agents."
)
_PROGRAM = click.option(
    "--program", metavar="PATH", help="clearml-agent as the units call it; the one beside this program without it."
)
_STATE_DIR = click.option(
    "--state-dir", default=Site().state_dir, metavar="DIR", help="Where agents keep their state (supervisord only)."
)
_LOG_DIR = click.option(
    "--log-dir", default=Site().log_dir, metavar="DIR", help="Where agents log to (supervisord only)."
)
_STOP_SIGNAL = click.option(
    "--stop-signal",
    type=click.Choice(("TERM", "INT")),
    default=Site().stop_signal,
    help="What stops an agent (supervisord only): TERM leaves its task running, INT ends it, as fits a container.",
)
_WAIT_FOR_GPUS = click.option(
    "--wait-for-gpus",
    type=click.IntRange(min=0),
    default=0,
    metavar="SECONDS",
    help="How long to wait for a driver that does not answer yet.",
)


def planning_options(command: F) -> F:
    """Add what says whose agents are planned, and from what."""
    for option in (_ROOT, _HOST, _INVENTORY, _TOPOLOGY):
        command = option(command)
    return command


def emitting_options(command: F) -> F:
    """Add what says how the plan is written."""
    for option in (_STOP_SIGNAL, _LOG_DIR, _STATE_DIR, _PROGRAM, _FORMAT):
        command = option(command)
    return command


def waiting_option(command: F) -> F:
    """Add `--wait-for-gpus`."""
    return _WAIT_FOR_GPUS(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and everything that it was made from."""

    root: Path
    topology: Topology
    host: Described
    names: state.Names
    plan: HostPlan


def planned(
    *, topology: str | None, inventory: str | None, host: str | None, root: str, wait_for_gpus: int = 0
) -> Planned:
    """The plan of one host. Raises AgentError."""
    base = Path(root).absolute()
    declared = read_topology(topology or str(base / TOPOLOGY))
    described = one_host(inventory, host, wait_for_gpus)
    names = state.names_of(base)
    plan = plan_host(described.host, described.inventory, declared, previous=names)
    return Planned(root=base, topology=declared, host=described, names=names, plan=plan)


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


def hosts_in(inventory: str) -> Iterator[Described]:
    """The hosts of an inventory: a file of one or of many, or a folder of files named after their hosts."""
    if inventory == "-":
        yield from hosts_from_json(_parsed(sys.stdin.read(), "standard input"), source="standard input")
        return
    path = Path(inventory)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{inventory}: no *.json file in this folder")
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror or "unreadable").lower() if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{file}: {reason}") from error
        for described in hosts_from_json(_parsed(text, str(file)), source=str(file)):
            yield Described(host=described.host or file.stem, inventory=described.inventory)


def gpus_of_this_host(wait_seconds: int = 0) -> Inventory:
    """What NVML says, after waiting for a driver that is still being loaded."""
    from agent.gpu.nvml import read_inventory

    deadline = time.monotonic() + wait_seconds
    while isinstance(found := read_inventory(with_peers=True), Unknown) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return found


def own_name() -> str:
    """The name of this host, as workers on it are called."""
    return os.uname().nodename


def emitter_for(format_: str) -> Emitter:
    """The emitter of `--format`."""
    return pick(format_)


def site_for(program: str | None, *, state_dir: str, log_dir: str, stop_signal: str) -> Site:
    """How the host is laid out; `clearml-agent` is what was named, else the one beside us."""
    beside_us = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "clearml-agent")
    return Site(program=program or beside_us, state_dir=state_dir, log_dir=log_dir, stop_signal=stop_signal)


def _parsed(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not JSON: {error}") from error
