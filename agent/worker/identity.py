"""Who this agent is: its worker id, and the lock that makes it the only one of that id on this host.

`<state>/workers/<worker id>.lock` is flocked for the agent's whole life; the kernel releases it however the agent ends,
so there is nothing stale to clean up. Its content says who holds it: `{"pid", "start_ticks", "worker_id", "slot",
"started_at_ms", "ready"}`, and once it is ready its "queues" (ids) and "hours" ({"uptime", "downtime", "timezone"}).
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from agent.config.schema import AgentSettings
from agent.errors import AlreadyRunning
from agent.files import write_json
from agent.models import Json, Succession, WorkerSetup
from agent.process.procfs import start_ticks_of

SLOTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A worker id that this process holds; `slot` is the number at its end, or None."""

    worker_id: str
    slot: int | None
    record: Path
    descriptor: int

    def say(self, *, ready: bool, **more: object) -> None:
        """Write the record that `daemon --stop`, `--status` and `--detached` read."""
        value: Json = {
            "pid": os.getpid(),
            "start_ticks": start_ticks_of(os.getpid()),
            "worker_id": self.worker_id,
            "slot": self.slot,
            "started_at_ms": int(time.time() * 1000),
            "ready": ready,
            **more,
        }
        write_json(self.record, value)

    def release(self) -> None:
        self.record.unlink(missing_ok=True)
        os.close(self.descriptor)


def names_for(agent: AgentSettings, setup: WorkerSetup) -> list[tuple[str, int | None]]:
    """The ids this agent may take, best first, each with its slot.

    The scheme is ClearML's: a configured id verbatim, `<name>:gpu0,1` with GPUs, `<name>:dgpu0,1` where they are shared
    out to tasks, `<name>:cpu:<slot>` without, else `<name>:<slot>` with the smallest slot that is free on this host.
    Ours: `<name>:gpu0:<slot>` for agents that share GPUs among them.
    """
    name = agent.worker_name
    if agent.worker_id:
        return [(agent.worker_id, None)]
    if setup.wishes:
        return [(f"{name}:d{setup.gpu_suffix}", None)]
    if setup.gpu_suffix and setup.share is None and not setup.cpu_only:
        return [(f"{name}:{setup.gpu_suffix}", None)]
    middle = "cpu:" if setup.cpu_only else f"{setup.gpu_suffix}:" if setup.gpu_suffix else ""
    return [(f"{name}:{middle}{slot}", slot) for slot in range(SLOTS)]


def take_identity(state: Path, agent: AgentSettings, setup: WorkerSetup) -> Identity:
    """Lock the first id that is free. Raises AlreadyRunning if none is."""
    directory = state / "workers"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if setup.succession is not None:
        return _inherit(directory, setup.succession)
    names = names_for(agent, setup)
    for worker_id, slot in names:
        descriptor = _lock(directory / f".{file_name_of(worker_id)}.held")
        if descriptor is not None:
            identity = Identity(
                worker_id=worker_id,
                slot=slot,
                record=directory / f"{file_name_of(worker_id)}.lock",
                descriptor=descriptor,
            )
            identity.say(ready=False)
            return identity
    raise AlreadyRunning(
        f"an agent with the worker id {names[0][0]!r} is already running on this host",
        hint="Stop it with `clearml-agent daemon --stop`, or give this one another CLEARML_WORKER_ID or --gpus",
    )


def _inherit(directory: Path, before: Succession) -> Identity:
    """The identity of the agent that this process was until now; it has never been free in between."""
    os.set_inheritable(before.descriptor, False)
    identity = Identity(
        worker_id=before.worker_id,
        slot=before.slot,
        record=directory / f"{file_name_of(before.worker_id)}.lock",
        descriptor=before.descriptor,
    )
    identity.say(ready=False)
    return identity


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def file_name_of(worker_id: str) -> str:
    """A worker id as a file name: everything but letters, digits, dot, dash and underscore percent-encoded."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "._-")
        else "".join(f"%{byte:02x}" for byte in char.encode())
        for char in worker_id
    )
