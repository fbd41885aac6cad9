"""Agents under supervisord: which ones, the configuration file, and waiting until the server knows them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.processes import running, wait_until
from demo.server import Server, StartFailed, program
from demo.state import Place
from demo.watch import epoch

QUICK = "quick"
TRAINING = "training"
START_SECONDS = 30.0
GRACE_SECONDS = 5
STOP_SECONDS = GRACE_SECONDS + 20

#: What fits into a socket's address, less the suffix that supervisord adds while it binds.
LONGEST_SOCKET_PATH = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One supervised agent: the name of its program, the queues in order of preference, and its resources."""

    name: str
    queues: tuple[str, ...]
    resources: tuple[str, ...]


def planned(gpus: Sequence[int]) -> tuple[Agent, ...]:
    """One agent per GPU, or two CPU slots; the second half prefers the other queue, so that none is left waiting."""
    slots: list[tuple[str, ...]] = [("--gpus", str(index)) for index in gpus]
    slots = slots or [("--cpu-only",), ("--cpu-only",)]
    return tuple(
        Agent(
            name=f"agent-{number}",
            queues=(QUICK, TRAINING) if number % 2 or len(slots) == 1 else (TRAINING, QUICK),
            resources=resources,
        )
        for number, resources in enumerate(slots)
    )


def visible_gpus() -> tuple[int, ...]:
    """The indices of the GPUs that the driver shows; none where there is no driver."""
    from agent.gpu.model import Gpus
    from agent.gpu.nvml import read_inventory

    inventory = read_inventory()
    return tuple(gpu.index for gpu in inventory.gpus) if isinstance(inventory, Gpus) else ()


def supervisor_configuration(agents: Sequence[Agent], place: Place, configuration: Path) -> str:
    """The text of `supervisord.conf`: agents stop by INT, which ends their task too, and are left alone to do so."""
    socket = place.root / "supervisor.sock"
    control = (
        f"""
[unix_http_server]
file={_quoted(socket)}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{_quoted(socket)}
"""
        if len(str(socket)) <= LONGEST_SOCKET_PATH
        else ""
    )
    head = f"""\
[supervisord]
nodaemon=true
logfile={_quoted(place.root / "log/supervisord.log")}
pidfile={_quoted(place.root / "supervisord.pid")}
childlogdir={_quoted(place.root / "log")}
"""
    return head + control + "".join(_program(agent, place, configuration) for agent in agents)


def _program(agent: Agent, place: Place, configuration: Path) -> str:
    command = [
        *(str(program("clearml-agent")), "--config-file", str(configuration), "daemon", "--foreground"),
        *("--create-queue", "--queue", *agent.queues, *agent.resources),
    ]
    return f"""
[program:{agent.name}]
command={" ".join(f'"{_quoted(word)}"' for word in command)}
directory={_quoted(place.root)}
environment=CLEARML_WORKER_NAME="demo",CLEARML_AGENT__AGENT__STOP_GRACE_SEC="{GRACE_SECONDS}"
stdout_logfile={_quoted(place.root / "log" / agent.name)}.log
redirect_stderr=true
autorestart=unexpected
startsecs=1
stopsignal=INT
stopwaitsecs={STOP_SECONDS}
stopasgroup=false
killasgroup=false
"""


def _quoted(text: object) -> str:
    """supervisord expands `%(name)s` in every value."""
    return str(text).replace("%", "%%")


@contextmanager
def running_agents(agents: Sequence[Agent], place: Place, server: Server) -> Iterator[Mapping[str, tuple[str, ...]]]:
    """Start the agents under supervisord, wait until each has registered; their worker ids with their queues."""
    file = place.root / "supervisord.conf"
    file.write_text(supervisor_configuration(agents, place, server.configuration))
    log = place.root / "log/supervisord.out"
    command = [str(program("supervisord")), "--nodaemon", "--configuration", str(file)]
    started = time.time()
    grace = STOP_SECONDS + 5
    with running(command, environment=place.environment, cwd=place.root, log=log, grace_seconds=grace) as process:
        yield _wait_for(process, agents, place, server, started)


def registered(server: Server, *, since: float) -> Mapping[str, tuple[str, ...]]:
    """The workers that the server has heard of since then, and the names of the queues they listen to."""
    workers = sorted(server.api("workers.get_all", last_seen=0)["workers"], key=lambda worker: str(worker["id"]))
    fresh = [worker for worker in workers if epoch(worker["last_activity_time"]) >= since]
    return {worker["id"]: tuple(queue["name"] for queue in worker["queues"]) for worker in fresh}


def _wait_for(
    process: subprocess.Popen[bytes], agents: Sequence[Agent], place: Place, server: Server, started: float
) -> Mapping[str, tuple[str, ...]]:
    def ready() -> bool:
        if process.poll() is not None:
            raise StartFailed("supervisord", place.root / "log/supervisord.out")
        return len(registered(server, since=started)) >= len(agents)

    if not wait_until(ready, seconds=START_SECONDS):
        raise StartFailed("an agent", place.root / "log" / f"{agents[0].name}.log")
    return registered(server, since=started)
