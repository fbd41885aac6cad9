"""From the set-up of a worker to its slots and its gate; what a worker does not need is not imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.schema import Settings
from agent.gpu.leases import PERCENTS, Leases, leases_folder
from agent.models import WorkerSetup
from agent.worker.disks import folders_of
from agent.worker.gate import Gate
from agent.worker.health import Health
from agent.worker.post import Post
from agent.worker.slots import OneSlot, OwnGpus, Services, Slots

if TYPE_CHECKING:
    from agent.worker.gpu_health import GpuHealth

log = logging.getLogger(__name__)

MPS_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's control daemon has its pipes unless told otherwise
MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"


def gate_for(settings: Settings) -> Gate:
    """The gate with the configured working hours, which were checked when the agent was started."""
    agent = settings.agent
    if not agent.uptime and not agent.downtime:
        return Gate(None)
    from agent.schedule import read_schedule

    return Gate(read_schedule(uptime=agent.uptime, downtime=agent.downtime, timezone=agent.timezone))


def health_for(post: Post) -> Health:
    """Who watches over the GPUs and the disks of this agent."""
    agent = post.settings.agent
    return Health(agent.health, post.bars, gpus=_gpu_health(post), folders=folders_of(agent, post.environ))


def _gpu_health(post: Post) -> GpuHealth | None:
    """None where there are no GPUs to look at, or nobody to ask."""
    setup = post.setup
    if setup.cpu_only:
        return None
    from agent.gpu.nvml import library_is_present
    from agent.gpu.visible import CUDA, NOTHING_VISIBLE

    visible = {**post.environ, **setup.gpu_environment}.get(CUDA)
    is_none = visible is not None and (not visible or visible.split(",")[0] in NOTHING_VISIBLE)
    if is_none or not library_is_present():
        return None
    from agent.gpu.checkup import Checkup
    from agent.gpu.health import Device
    from agent.worker.gpu_health import GpuHealth

    devices = [Device(label=unit["label"], uuid=unit["uuid"]) for unit in setup.units]
    return GpuHealth(
        post.settings.agent.health,
        post.identity.record,
        Checkup(devices, missing=setup.missing, visible=visible, is_given=bool(setup.gpus)),
        shares_out=bool(setup.wishes),
        is_incomplete=bool(setup.missing),
    )


def slots_for(
    setup: WorkerSetup, settings: Settings, worker: str, *, sick: Callable[[], Mapping[str, str]] = dict
) -> Slots:
    """How many tasks at once, and on what. `sick` says which GPUs are not to be given to tasks, and why."""
    if setup.services is not None:
        return Services(worker, setup.services or None)
    if setup.wishes:
        return _dynamic(setup, settings, sick)
    if not setup.units or setup.cpu_only:
        return OneSlot(worker)
    percents = None if setup.share is None else max(1, int(setup.share * PERCENTS))
    guard = OwnGpus(
        _leases(settings),
        [(unit["label"], unit["uuid"]) for unit in setup.units],
        percents=percents,
        least_free_memory=settings.agent.gpu_sharing.least_free_memory,
        environment=_mps(settings, percents, os.environ) if percents else {},
    )
    return OneSlot(worker, guard)


def _leases(settings: Settings) -> Leases:
    folder, is_shared = leases_folder(settings.agent.gpu_leases_dir, Path(settings.agent.state_dir).expanduser())
    if not is_shared:
        log.warning("who has which GPU is kept in %s, which agents with another state directory do not see", folder)
    return Leases(folder)


def _dynamic(setup: WorkerSetup, settings: Settings, sick: Callable[[], Mapping[str, str]]) -> Slots:
    from agent.gpu.allocation import Layout, Unit, Wish
    from agent.gpu.model import Link
    from agent.worker.dynamic_gpus import DynamicGpus

    links = {frozenset((one, other)): Link(word) for one, other, word in setup.links}
    wanted = settings.agent.dynamic_gpus
    return DynamicGpus(
        settings.agent.worker_name,
        Layout([Unit(**unit) for unit in setup.units], links),
        [Wish(queue=str(place), least=least, most=most) for place, (least, most) in enumerate(setup.wishes)],
        _leases(settings),
        reserve_after_seconds=wanted.reserve_after_seconds,
        spares_strangers=wanted.foreign_processes == "veto",
        names_by_uuid="GPU-" in (setup.gpus or ""),
        sick=sick,
    )


def _mps(settings: Settings, percents: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that make a task a client of MPS with the share as its limit (NVIDIA, "Multi-Process Service").

    Only of a control daemon that runs already: it belongs to whoever runs the host.
    """
    if not settings.agent.gpu_sharing.mps:
        return {}
    pipes = environ.get(MPS_VARIABLE) or MPS_PIPES
    if not Path(pipes, "control").exists():
        log.warning("no MPS control daemon runs here (%s has no pipes): tasks share the GPU without it", pipes)
        return {}
    return {MPS_VARIABLE: pipes, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(percents)}
