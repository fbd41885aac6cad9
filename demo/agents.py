"""Agents under supervisord: their topology, their programs by `supervisor-gen`, and waiting until they registered."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.processes import running, wait_until
from demo.server import Server, StartFailed, program
from demo.state import Place
from demo.watch import epoch

QUICK = "quick"
TRAINING = "training"
HOST = "demo"
START_SECONDS = 30.0
GRACE_SECONDS = 5
STOP_SECONDS = 35

#: What fits into a socket's address, less the suffix that supervisord adds while it binds.
LONGEST_SOCKET_PATH = 90


def topology(gpus: Sequence[int], configuration: Path) -> str:
    """One agent per GPU, or two CPU slots; every other one prefers the other queue, so that none is left waiting."""
    first, second = [TRAINING, QUICK], [QUICK, TRAINING]
    if not gpus:
        entries = [{"name": f"slot{n}", "gpus": 0, "queues": queues} for n, queues in enumerate((first, second))]
    elif len(gpus) == 1:
        entries = [{"queues": second}]
    else:
        entries = [{"gpu": {"index": list(gpus[::2])}, "queues": first}, {"rest": True, "queues": second}]
    defaults = {
        "create_queue": True,
        "config_file": str(configuration),
        "environment": {"CLEARML_AGENT__AGENT__STOP_GRACE_SEC": str(GRACE_SECONDS)},
    }
    return json.dumps({"defaults": defaults, "agents": entries}, indent=2) + "\n"


def visible_gpus() -> tuple[int, ...]:
    """The indices of the GPUs that the driver shows, but for those in MIG mode; none where there is no driver."""
    from agent.gpu.inventory import read_inventory
    from agent.gpu.model import Gpus

    inventory = read_inventory()
    return tuple(gpu.index for gpu in inventory.gpus if not gpu.mig_enabled) if isinstance(inventory, Gpus) else ()


def supervisor_configuration(place: Place) -> str:
    """The text of `supervisord.conf`; the agents are in files of their own."""
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
    return head + control + "\n[include]\nfiles=etc/supervisor/conf.d/*.conf\n"


def write_programs(place: Place, server: Server, gpus: Sequence[int]) -> tuple[str, ...]:
    """Declare the agents and let `supervisor-gen` write their programs; the names of the agents."""
    declared = place.folder("etc/gpufleet") / "topology.conf"
    declared.write_text(topology(gpus, server.configuration))
    inventory = ["--inventory", str(_no_gpus(place))] if not gpus else []
    command = [
        *(str(program("supervisor-gen")), "apply", "--json", "--format", "supervisord", "--root", str(place.root)),
        *("--host", HOST, "--program", str(program("clearml-agent")), "--stop-signal", "INT"),
        *("--state-dir", str(place.root / "agent"), "--log-dir", str(place.root / "log"), *inventory),
    ]
    done = subprocess.run(command, env=dict(place.environment), capture_output=True, text=True, check=False)
    if done.returncode:
        log = place.root / "log/supervisor-gen.log"
        log.write_text(done.stderr)
        raise StartFailed("supervisor-gen", log)
    return tuple(json.loads(done.stdout)["done"])


def _no_gpus(place: Place) -> Path:
    """A host whose driver does not answer is one without GPUs here: the demo has slots for that."""
    file = place.root / "inventory.json"
    file.write_text('{"version": 1, "gpus": []}\n')
    return file


def _quoted(text: object) -> str:
    """supervisord expands `%(name)s` in every value."""
    return str(text).replace("%", "%%")


@contextmanager
def running_agents(gpus: Sequence[int], place: Place, server: Server) -> Iterator[Mapping[str, tuple[str, ...]]]:
    """Start the agents under supervisord, wait until each has registered; their worker ids with their queues."""
    agents = write_programs(place, server, gpus)
    file = place.root / "supervisord.conf"
    file.write_text(supervisor_configuration(place))
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
    process: subprocess.Popen[bytes], agents: Sequence[str], place: Place, server: Server, started: float
) -> Mapping[str, tuple[str, ...]]:
    def ready() -> bool:
        if process.poll() is not None:
            raise StartFailed("supervisord", place.root / "log/supervisord.out")
        return len(registered(server, since=started)) >= len(agents)

    if not wait_until(ready, seconds=START_SECONDS):
        raise StartFailed("an agent", place.root / "log" / f"{agents[0]}.log")
    return registered(server, since=started)
