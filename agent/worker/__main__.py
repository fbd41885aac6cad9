"""The daemon's process: `python -OO -m agent.worker SETUP_FILE`.

Started (by exec) from `clearml-agent daemon`, which has written everything that was parsed into SETUP_FILE. The file
holds secrets, so it is removed as soon as it has been read.

Memory: an idle agent is meant to take less than 22 MB. `asyncio` and `http.client` import `ssl` (4 MB) whether or not
it is needed, so it is kept out unless the server speaks https; glibc is told to use two arenas (threads would each get
one), and what start-up left behind is given back to the kernel.
"""

from __future__ import annotations

from agent.worker.wishes import keep_waiting

if __name__ == "__main__":
    keep_waiting()  # before the imports below, which take their time

import faulthandler
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent.models import WorkerSetup

if TYPE_CHECKING:
    from agent.config.schema import Settings
    from agent.runner.machine import GpuStats
    from agent.worker.post import GpusFor

M_ARENA_MAX = -8  # malloc.h


def main(arguments: list[str]) -> int:
    """Run the worker that the set-up file describes; returns the exit code of `agent.errors`."""
    os.umask(0o077)
    path = Path(arguments[0])
    setup = WorkerSetup.from_json(json.loads(path.read_bytes()))
    path.unlink(missing_ok=True)
    leave_out_ssl_unless_needed(setup)
    trim = _libc()

    import asyncio
    import logging

    from agent.api.client import open_client
    from agent.config.schema import Settings, secrets_of
    from agent.errors import AgentError
    from agent.logs import Recent, set_up_logging
    from agent.runtimes.host import HostRuntime
    from agent.worker.reload import become
    from agent.worker.service import Supervisor
    from agent.worker.worker import run_worker

    settings = Settings.from_json(setup.settings)
    set_up_logging(
        level=setup.log_level,
        json_lines=setup.json_logs,
        secrets=secrets_of(settings),
        journal_stream=os.environ.get("JOURNAL_STREAM", ""),
    )
    logging.getLogger().addHandler(Recent())
    faulthandler.enable()  # a watchdog ends a process that hangs by SIGABRT: its log shall say where it hung
    log = logging.getLogger("agent.worker")
    try:
        client = open_client(settings.api, name=settings.agent.worker_name)
        supervisor, gpus_for = Supervisor.from_environ(os.environ), _gpu_sampler(settings)
        trim()
        successor = asyncio.run(
            run_worker(setup, settings, client, HostRuntime(), supervisor=supervisor, gpus_for=gpus_for)
        )
        if successor is not None:
            become(successor)
    except AgentError as error:
        log.error("%s", error, extra={"action": "failed"})
        return error.exit_code
    return 0


def leave_out_ssl_unless_needed(setup: WorkerSetup) -> None:
    """Make `import ssl` fail quietly, which the standard library takes as "built without TLS"."""
    api = setup.settings.get("api", {})
    if str(api.get("api_server", "")).startswith("http://") and "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]


def _libc() -> Callable[[], object]:
    """Limit malloc's arenas; returns a function that gives freed memory back (a no-op where there is no glibc)."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        return lambda: libc.malloc_trim(0)
    except (ImportError, OSError, AttributeError):
        return lambda: None


def _gpu_sampler(settings: Settings) -> GpusFor:
    """Readings of the GPUs that some variables make visible; None on a host without an NVIDIA driver."""

    def gpus_for(environment: Mapping[str, str]) -> GpuStats | None:
        from agent.gpu.stats import sampler_for
        from agent.runner.machine import OneAtATime

        default = settings.agent.resource_monitoring.default_gpu_utilization
        gpus = sampler_for(environment, default_utilization=default)
        return OneAtATime(gpus) if gpus is not None else None

    return gpus_for


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
