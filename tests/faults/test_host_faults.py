"""What goes wrong on the host: no space left, nothing may be written, an identity twice, a reboot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.agent import AgentProcess, console_of, create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.cli import run_cli
from support.disks import small_disk
from support.fault_case import Case
from support.hosts import PRODUCT, host_network, install_gpus
from support.invariants import Checker, counting_script
from support.repositories import make_repository
from support.settings import settings_for
from support.watcher import Watcher

from agent.steps import Step
from agent.worker.identity import file_name_of

MIB = 1024 * 1024


def fill(disk: Path, *, leave: int = 0) -> Path:
    """A file that takes all space of the disk but `leave` bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


# --- no space left


def test_a_task_waits_for_space_and_loses_no_line(server: ServerProcess, tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "16m") as disk:
        case = Case(server, tmp_path, script={"lines": 4000, "pause": 0, "pad": 500})
        case.start().wait_until_ready()
        try:
            wait_for(lambda: case.checker.attempts(case.task), what="the task begins")
            ballast = fill(disk, leave=65536)
            written = wait_for(lambda: _stuck(disk), what="the console stops to grow")
            assert case.checker.attempts(case.task)[0].code is None
            ballast.unlink()
            assert case.settle() == "completed"
            assert written < 4000 * 500
        finally:
            case.end()


def _stuck(disk: Path) -> int:
    """The size of the console once nothing more fits on the disk."""
    room = os.statvfs(disk)
    return sum(file.stat().st_size for file in disk.glob("runs/*/console/*.log")) if not room.f_bavail else 0


#: Where the daemon or the executor writes next, and how the task may end.
WRITES = {
    Step.SEEN: "completed",
    Step.POPPED: "completed",
    Step.START_TOLD: "completed",
    Step.EXECUTOR_BEGUN: "completed",
    Step.PROCESS_ENDED: "completed",
    Step.EXECUTOR_GONE: "completed",
    Step.CONSOLE_DONE: "completed",
}
FAULT_SECONDS = 2.0


@pytest.mark.parametrize("how", ["full", pytest.param("read-only", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("step", WRITES)
def test_a_state_directory_that_takes_nothing_for_a_while_loses_nothing(
    server: ServerProcess, tmp_path: Path, step: Step, how: str
) -> None:
    with ExitStack() as stack:
        watcher = stack.enter_context(Watcher())
        state = tmp_path / "state"
        if how == "full":
            stack.enter_context(small_disk(state, "16m"))
        case = Case(server, tmp_path, environ=watcher.environ)
        watcher.at(step, lambda _: fill(state) if how == "full" else lock(state))
        case.start()
        try:
            watcher.wait(step, log=case.agent.log)
            time.sleep(FAULT_SECONDS)  # this is the fault
            if how == "full":
                (state / "ballast").unlink()
            else:
                unlock(state)
            assert case.settle(seconds=90) == WRITES[step]
        finally:
            unlock(state)
            case.end()


def lock(state: Path) -> None:
    """Nothing can be made, renamed or removed below this folder, as on a file system that has become read-only."""
    (state / "runs").mkdir(exist_ok=True)
    subprocess.run(["chattr", "-R", "-f", "+i", state / "runs", state / "workers"], check=False)


def unlock(state: Path) -> None:
    subprocess.run(["chattr", "-R", "-f", "-i", state / "runs", state / "workers"], check=False)


def test_a_full_cache_costs_the_cache_and_not_the_task(server: ServerProcess, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "code", {"main.py": "print('from main')\n", "data": os.urandom(2 * MIB)})
    with small_disk(tmp_path / "caches", "8m") as disk:
        fill(disk, leave=MIB)
        case = Case(
            server,
            tmp_path,
            task={"repository": str(repository.folder), "branch": "main", "requirements": {"pip": "six"}},
            vcs_cache=settings_for(state=disk).agent.vcs_cache,
            venvs_cache=settings_for(state=disk).agent.venvs_cache,
        )
        case.start()
        try:
            assert case.settle() in ("completed", "failed")
            (disk / "ballast").unlink()
            again = create_script(server, case.script, queue=case.name)
            wait_for_status(server, again, "completed")
        finally:
            case.end()


def test_a_log_that_takes_nothing_costs_the_log(server: ServerProcess, tmp_path: Path) -> None:
    case = Case(server, tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f"{file_name_of(f'h:{case.name}')}.log").symlink_to("/dev/full")
    case.start()
    try:
        assert case.settle() == "completed"
        assert case.agent.process.poll() is None
    finally:
        case.end()


def test_an_agent_whose_state_cannot_be_written_says_so(server: ServerProcess, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "workers").mkdir(parents=True)
    lock(state)
    try:
        ended = run_cli(
            tmp_path,
            *("daemon", "--queue", "default", "--foreground", "--cpu-only"),
            CLEARML_CONFIG_FILE=str(server.conf_path),
            STATE_DIRECTORY=str(state),
        )
        assert ended.returncode == 3
        assert str(state) in ended.stderr
        assert "Traceback" not in ended.stderr
    finally:
        unlock(state)


# --- one identity twice


def test_two_hosts_with_one_worker_id_run_every_task_once(server: ServerProcess, tmp_path: Path) -> None:
    """A fleet whose host names are not unique: each host minds what it has claimed itself."""
    server.new_queue(tmp_path.name)
    ledger, states = tmp_path / "ledger", [tmp_path / "one", tmp_path / "other"]
    script = counting_script(ledger, pause=0.02)
    tasks = [create_script(server, script, queue=tmp_path.name) for _ in range(8)]
    agents = [AgentProcess(server, state, tmp_path.name, worker_id="h:same") for state in states]
    try:
        checker = Checker(server=server, states=states, ledger=ledger)
        wait_for(lambda: any(checker.attempts(task) for task in tasks), what="a task begins")
        agents[0].kill()
        agents[0].restart()
        checker.settle(tasks)
        assert [server.status(task) for task in tasks] == ["completed"] * len(tasks)
        assert [len(checker.attempts(task)) for task in tasks] == [1] * len(tasks)
    finally:
        for agent in agents:
            agent.signal(signal.SIGINT)


# --- processes that do not end


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("stubborn", flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(600)  # a grandchild in a session of its own, with the output open
time.sleep(600 if "{stays}" else 0)
"""


@pytest.mark.parametrize("stays", ["yes", ""], ids=["aborted", "ends by itself"])
def test_what_ignores_term_and_hides_with_the_output_open_is_ended(
    server: ServerProcess, tmp_path: Path, stays: str
) -> None:
    case = Case(server, tmp_path)
    case.start().wait_until_ready()
    try:
        case.settle()
        task = create_script(server, STUBBORN.format(stays=stays), queue=case.name)
        wait_for(lambda: "stubborn" in case.checker.console(task), what="it runs")
        if stays:
            server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped" if stays else "completed")
        case.checker.settle([task], excused=frozenset({"console", "outcome", "ledger"}))
    finally:
        case.end()


# --- a reboot


@pytest.mark.timeout(240)
@pytest.mark.thorough
@pytest.mark.parametrize("how", ["reboot", "power failure"])
def test_a_host_that_goes_down_amid_a_task_forgets_none(tmp_path: Path, how: str) -> None:
    with host_network() as network, network.server() as server, network.boot("going") as host:
        install_gpus(host, GPU)
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        host.write("/etc/gpufleet/topology.conf", TOPOLOGY)
        host.run(f"{PRODUCT}/bin/supervisor-gen", "apply", timeout=120)
        ledger = "/var/lib/clearml-agent/ledger"
        script = counting_script(Path(ledger), lines=200, pause=0.1)
        running, waiting = (create_script(server, script, queue="going") for _ in range(2))
        wait_for(lambda: console_of(server, running, level="DEBUG"), seconds=60, what="the first line")
        if how == "reboot":
            host.reboot()
        else:
            host.crash()
            host.boot()
        ended = wait_for_status(server, running, "stopped", "failed", "completed", seconds=90)
        assert ended["status"] == ("stopped" if how == "reboot" else "failed")
        wait_for_status(server, waiting, "in_progress", seconds=60)
        host.run(f"{PRODUCT}/bin/supervisor-gen", "drain", timeout=120)
        state = host.path("/var/lib/clearml-agent")
        checker = Checker(server=server, states=[state], ledger=host.path(ledger), lines=200)
        assert not checker.settled([running])


TOPOLOGY = """
defaults { create_queue: true }
agents: [ { gpu { index: 0 }, queues: ["going"] } ]
"""
GPU = """
[system]
driver_version = 550.90.07
[gpu 0]
name = NVIDIA H100
uuid = GPU-00000000-0000-4000-8000-000000000000
minor = 0
bus_id = 00000000:1B:00.0
numa = 0
cpus = 0
"""
