"""The options that the commands share, and what becomes of them: a plan, and how it is written."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from agent.gpu.wire import Described
from supervisor_gen import state
from supervisor_gen.cli.sources import one_host
from supervisor_gen.emitters import EMITTERS, Emitter
from supervisor_gen.model import HostPlan, Site
from supervisor_gen.operate import Scene
from supervisor_gen.plan import plan_host
from supervisor_gen.roster import chosen, roster_of
from supervisor_gen.supervisors import supervisor_for
from supervisor_gen.topology import read_topology

F = TypeVar("F", bound=Callable[..., Any])

TOPOLOGY = "etc/gpufleet/topology.conf"

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
_GPU = click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="INDEX|UUID",
    help="The agents that have this GPU, or a part of it; may be repeated.",
)
_STOP_SIGNAL = click.option(
    "--stop-signal",
    type=click.Choice(("TERM", "INT")),
    default=Site().stop_signal,
    help="What stops an agent (supervisord only): TERM leaves its task running, INT ends it, as fits a container.",
)
SUPERVISOR_CONFIG = click.option(
    "--supervisor-config", metavar="FILE", help="The supervisord to talk to (with --format supervisord)."
)
READY_TIMEOUT = click.option(
    "--ready-timeout",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until started agents have registered.",
)
_WAIT_FOR_GPUS = click.option(
    "--wait-for-gpus",
    type=click.IntRange(min=0),
    default=0,
    metavar="SECONDS",
    help="How long to wait for a driver that does not answer yet.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """What the options say of whose agents are planned, and from what."""

    topology: str | None
    inventory: str | None
    host: str | None
    root: Path
    wait_for_gpus: int

    def topology_file(self) -> str:
        return self.topology or str(self.root / TOPOLOGY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """What the options say of how a plan is written."""

    format: str
    emitter: Emitter
    site: Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and everything that it was made from."""

    root: Path
    host: Described
    names: state.Names
    plan: HostPlan


def planning_options(command: F) -> F:
    """Add the options that make a `Planning`, and pass it as `planning`."""

    @functools.wraps(command)
    def with_planning(
        *, topology: str | None, inventory: str | None, host: str | None, root: str, wait_for_gpus: int, **more: Any
    ) -> Any:
        planning = Planning(
            topology=topology,
            inventory=inventory,
            host=host,
            root=Path(root).absolute(),
            wait_for_gpus=wait_for_gpus,
        )
        return command(planning=planning, **more)

    return cast(F, _with(with_planning, _WAIT_FOR_GPUS, _ROOT, _HOST, _INVENTORY, _TOPOLOGY))


def emitting_options(command: F) -> F:
    """Add the options that make an `Emission`, and pass it as `emission`."""

    @functools.wraps(command)
    def with_emission(
        *, format_: str, program: str | None, state_dir: str, log_dir: str, stop_signal: str, **more: Any
    ) -> Any:
        beside_us = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "clearml-agent")
        site = Site(program=program or beside_us, state_dir=state_dir, log_dir=log_dir, stop_signal=stop_signal)
        return command(emission=Emission(format=format_, emitter=EMITTERS[format_], site=site), **more)

    return cast(F, _with(with_emission, _STOP_SIGNAL, _LOG_DIR, _STATE_DIR, _PROGRAM, _FORMAT))


def scene_options(command: F) -> F:
    """Add the options that say which agents of which supervisor, and pass them as `scene`."""

    @functools.wraps(command)
    def with_scene(*, format_: str, supervisor_config: str | None, state_dir: str, root: str, **more: Any) -> Any:
        place = Path(root).absolute()
        site = Site(state_dir=state_dir)
        scene = Scene(
            root=place,
            state_dir=Path(state_dir),
            roster=roster_of(place, EMITTERS[format_]),
            supervisor=supervisor_for(format_, root=place, configuration=supervisor_config, site=site),
            say=lambda line: click.echo(line, err=True),
        )
        return command(scene=scene, **more)

    return cast(F, _with(with_scene, _ROOT, _STATE_DIR, SUPERVISOR_CONFIG, _FORMAT))


def choosing_options(command: F) -> F:
    """Add the arguments that choose agents, and pass their names as `names`."""

    @functools.wraps(command)
    def with_names(*, scene: Scene, agents: tuple[str, ...], gpus: tuple[str, ...], **more: Any) -> Any:
        names = chosen(scene.roster, agents, gpus)
        if not names:
            scene.say(f"no agent has GPU {', '.join(gpus)}" if gpus else "this host has no agents")
        return command(scene=scene, names=names, **more)

    return cast(F, _with(with_names, _GPU, click.argument("agents", nargs=-1, metavar="[AGENT]...")))


def waiting_option(command: F) -> F:
    """Add `--wait-for-gpus`."""
    return _WAIT_FOR_GPUS(command)


def planned(planning: Planning) -> Planned:
    """The plan of one host. Raises AgentError."""
    declared = read_topology(planning.topology_file())
    described = one_host(planning.inventory, planning.host, planning.wait_for_gpus)
    names = state.names_of(planning.root)
    plan = plan_host(described.host, described.inventory, declared, previous=names)
    return Planned(root=planning.root, host=described, names=names, plan=plan)


def tell_warnings(plan: HostPlan) -> None:
    """Say what a person should know, for commands whose output does not."""
    for warning in plan.warnings:
        click.echo(f"supervisor-gen: WARNING: {warning}", err=True)


def _with(command: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[..., Any]:
    for option in options:
        command = option(command)
    return command
