"""What an agent is and has before it knows the server, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.api.client import AsyncClient
from agent.config.schema import Settings
from agent.models import ExecutorSetup, WorkerSetup
from agent.runner.machine import GpuStats, MachineSampler
from agent.runner.rundir import Runs
from agent.runtimes.base import Runtime
from agent.worker.bars import Bars
from agent.worker.duty import Duty
from agent.worker.identity import Identity
from agent.worker.service import Supervisor
from agent.worker.signals import Stop

#: The readings of the GPUs that a task with these variables sees, for any thread; None where there are none.
GpusFor = Callable[[Mapping[str, str]], GpuStats | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What an agent is and has before it knows the server.

    `on_resume` are called when an operator says that the agent shall take tasks again: whoever has put up a bar that a
    person may take away listens there.
    """

    setup: WorkerSetup
    settings: Settings
    identity: Identity
    api: AsyncClient
    runtime: Runtime
    runs: Runs
    supervisor: Supervisor
    stop: Stop
    gpus: GpuStats | None
    gpus_for: GpusFor
    environ: Mapping[str, str]
    bars: Bars = field(default_factory=Bars)
    on_resume: list[Callable[[], None]] = field(default_factory=list)
    duty: Duty = field(default_factory=Duty)

    def has_runs(self) -> bool:
        """Whether a run of this worker is still to be seen through."""
        return bool(self.runs.of_agent(self.identity.worker_id))


def executor_setup(setup: WorkerSetup, worker_id: str) -> ExecutorSetup:
    """What every executor of this worker is told."""
    return ExecutorSetup(
        settings=setup.settings,
        worker_id=worker_id,
        environment=setup.gpu_environment,
        umask=setup.task_umask,
        optimize=setup.optimize,
        log_level=setup.log_level,
        standalone=setup.standalone,
    )


def sampler_for(settings: Settings, gpus: GpuStats | None) -> MachineSampler:
    """One for each reader, because rates cover the time since the previous look of the same one."""
    return MachineSampler(disk_path=settings.agent.resource_monitoring.disk_use_path or "~", gpus=gpus)
