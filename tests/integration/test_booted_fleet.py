"""`supervisor-gen apply` on a booted host with eight GPUs, and what its units do, with real agents and tasks.

Each test begins with the eight agents of `TOPOLOGY` at rest, whatever the one before did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.agent import console_of, create_script, status_of, wait_for, wait_for_status
from support.documents import ROOT, blocks_of
from support.hosts import PRODUCT, Host, host_network, install_gpus, set_gpus
from support.hosts.gpus import DESCRIPTION

pytestmark = pytest.mark.timeout(240)

GPUS = range(8)
AGENTS = [f"gpu{index}" for index in GPUS]
TOPOLOGY = "defaults { create_queue: true }\nagents: [\n" + "".join(
    f'  {{ gpu {{ model: "number {index}" }}, optional: true, queues: ["queue {index}", shared] }}\n' for index in GPUS
)
SERVICES = "  { name: services, gpus: 0, count: 2, queues: [services] }\n"

#: Counts to 60 in about 3 s.
COUNTING = """
import time
for number in range(60):
    print("line", number, flush=True)
    time.sleep(0.05)
"""
#: Runs until /tmp/go is there (each agent has a /tmp of its own).
WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists("/tmp/go"):
    time.sleep(0.05)
os.unlink("/tmp/go")
print("gone on")
"""
#: Says once a second which GPUs it can open, whatever it makes of its own variables, until /tmp/go is there.
OPENING = """
import errno, os, time
given = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"], *os.sched_getaffinity(0)
print("given", *given, flush=True)
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["NVIDIA_VISIBLE_DEVICES"] = "all"
def opened(index):
    try:
        os.close(os.open(f"/dev/nvidia{index}", os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno]
while True:
    done = os.path.exists("/tmp/go")
    print("opened", *(opened(index) for index in range(8)), flush=True)
    if done:
        os.unlink("/tmp/go")
        break
    time.sleep(0.2)
"""


def described(*indexes: int) -> str:
    """GPUs that keep name, UUID and node while the driver numbers them anew. This machine has two CPUs."""
    return "[system]\ndriver_version = 550.90.07\n" + "".join(
        f"[gpu {position}]\nname = NVIDIA H100 number {index}\n"
        f"uuid = GPU-00000000-0000-4000-8000-00000000000{index}\nminor = {index}\n"
        f"bus_id = 00000000:{0x1B + index:02X}:00.0\nnuma = 0\ncpus = {index // 4}\nnvlinks = 18\n"
        for position, index in enumerate(indexes)
    )


@dataclass(frozen=True, slots=True)
class Fleet:
    """The host and the server that its agents report to."""

    host: Host
    server: Any

    def apply(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = self.host.run(f"{PRODUCT}/bin/supervisor-gen", "apply", "--json", *words, check=False, timeout=120)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def pids(self) -> dict[str, str]:
        """The daemon of each agent that runs."""
        units = [unit_of(agent) for agent in AGENTS]
        shown = self.host.systemctl("show", "--property=MainPID", "--value", *units).stdout.split()
        return {agent: pid for agent, pid in zip(AGENTS, shown, strict=True) if pid != "0"}

    def workers(self) -> set[str]:
        return {worker["id"] for worker in self.server.call("workers.get_all", last_seen=60)["workers"]}

    def run_task(self, source: str, agent: str) -> str:
        """A task that `agent` has begun to run; it has printed something."""
        task = create_script(self.server, source, queue=f"queue {agent[3:]}", name=f"for {agent}")
        wait_for_status(self.server, task, "in_progress")
        wait_for(lambda: console_of(self.server, task, level="DEBUG"), what="the first line")
        return task

    def go(self, agent: str) -> None:
        """Let the waiting task of an agent end."""
        self.host.write(f"/var/lib/clearml-agent/tmp/{agent}/go", "")


def unit_of(agent: str) -> str:
    return f"clearml-agent@{agent}.service"


@pytest.fixture(scope="module")
def booted() -> Iterator[Fleet]:
    with host_network() as network, network.server() as server, network.boot("gpuhost") as host:
        install_gpus(host, described(*GPUS))
        host.write("/etc/gpufleet/topology.conf", TOPOLOGY + "]\n")
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        yield Fleet(host, server)


@pytest.fixture
def fleet(booted: Fleet) -> Fleet:
    set_gpus(booted.host, described(*GPUS))
    booted.host.write("/etc/gpufleet/topology.conf", TOPOLOGY + "]\n")
    result = booted.apply()
    assert result["waiting"] == {}
    assert set(booted.pids()) == set(AGENTS)
    return booted


def test_every_gpu_has_an_agent_and_each_queue_gets_its_task_done(fleet: Fleet) -> None:
    assert fleet.workers() >= {f"gpuhost:{agent}" for agent in AGENTS}
    tasks = {index: create_script(fleet.server, "print('done')", queue=f"queue {index}") for index in GPUS}
    for index, task in tasks.items():
        found = wait_for_status(fleet.server, task, "completed", "failed")
        assert (found["status"], found["last_worker"]) == ("completed", f"gpuhost:gpu{index}")
    assert "idle, queues queue 0, shared" in fleet.host.property(unit_of("gpu0"), "StatusText")


def test_a_second_apply_changes_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    assert set(fleet.apply()["done"].values()) == {"unchanged"}
    assert fleet.pids() == before
    assert fleet.host.run(f"{PRODUCT}/bin/supervisor-gen", "diff").stdout == ""


def test_no_task_opens_a_gpu_of_another_agent_not_even_while_its_own_agent_is_stopped(fleet: Fleet) -> None:
    tasks = {agent: fleet.run_task(OPENING, agent) for agent in ("gpu0", "gpu5")}
    fleet.host.systemctl("stop", unit_of("gpu0"))
    fleet.host.systemctl("daemon-reload")
    wait_for(lambda: fleet.host.property(unit_of("gpu0"), "ActiveState") == "inactive")
    fleet.host.run("sleep", "1")
    fleet.host.systemctl("start", unit_of("gpu0"))
    for agent in tasks:
        fleet.go(agent)
    for agent, task in tasks.items():
        assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
        lines = console_of(fleet.server, task, level="DEBUG")
        index = int(agent[3:])
        assert f"given GPU-00000000-0000-4000-8000-00000000000{index} PCI_BUS_ID {index // 4}" in lines
        expected = " ".join("ENXIO" if other == index else "EPERM" for other in GPUS)
        assert {line for line in lines if line.startswith("opened")} == {f"opened {expected}"}
        assert len(lines) > 5


@pytest.mark.parametrize("how", ["restart", "kill -9"])
def test_a_task_goes_on_while_its_agent_is_replaced(fleet: Fleet, how: str) -> None:
    before = fleet.pids()["gpu1"]
    task = fleet.run_task(COUNTING, "gpu1")
    if how == "restart":
        fleet.host.systemctl("restart", unit_of("gpu1"))
    else:
        fleet.host.systemctl("kill", "--kill-who=main", "--signal=KILL", unit_of("gpu1"))
    wait_for(lambda: fleet.pids().get("gpu1") not in (None, before))
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    assert console_of(fleet.server, task, level="DEBUG") == [f"line {number}" for number in range(60)]


def test_an_agent_that_hangs_is_restarted_by_the_watchdog_and_its_task_goes_on(fleet: Fleet) -> None:
    host, unit = fleet.host, unit_of("gpu2")
    drop_in = f"/run/systemd/system/{unit}.d/quick.conf"
    host.write(drop_in, "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    try:
        host.systemctl("daemon-reload")
        host.systemctl("restart", unit)
        task = fleet.run_task(WAITING, "gpu2")
        hung = fleet.pids()["gpu2"]
        host.run("kill", "-STOP", hung)
        wait_for(lambda: fleet.pids().get("gpu2") not in (None, hung), seconds=30)
        host.wait_for_state(unit, "active")
        assert "Watchdog timeout" in host.journal(unit)
        fleet.go("gpu2")
        assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    finally:
        host.path(drop_in).unlink()
        host.systemctl("daemon-reload")
        host.systemctl("restart", unit)


def test_a_busy_agent_is_not_taken_for_a_hung_one(fleet: Fleet) -> None:
    host, unit = fleet.host, unit_of("gpu2")
    drop_in = f"/run/systemd/system/{unit}.d/quick.conf"
    host.write(drop_in, "[Service]\nWatchdogSec=2\n")
    try:
        host.systemctl("daemon-reload")
        host.systemctl("restart", unit)
        before = fleet.pids()["gpu2"]
        loud = "import time\nend = time.time() + 6\nwhile time.time() < end: print('x' * 100)"
        task = create_script(fleet.server, loud, queue="queue 2")
        assert wait_for_status(fleet.server, task, "completed", "failed", seconds=90)["status"] == "completed"
        assert fleet.pids()["gpu2"] == before
    finally:
        host.path(drop_in).unlink()
        host.systemctl("daemon-reload")
        host.systemctl("restart", unit)


def test_a_gpu_that_is_gone_takes_only_its_agent_along_and_only_after_its_task(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu3")
    before = fleet.pids()
    set_gpus(fleet.host, described(*(index for index in GPUS if index != 3)))
    started = fleet.apply("--no-wait")
    assert "draining" in started["waiting"]["gpu3"]
    assert fleet.pids() == before
    with fleet.host.start(f"{PRODUCT}/bin/supervisor-gen", "apply") as waiting:
        assert waiting.stderr
        assert re.match(r"gpu3: draining: running task", waiting.stderr.readline())
        assert status_of(fleet.server, task) == "in_progress"
        fleet.go("gpu3")
        out, _ = waiting.communicate(timeout=30)
    assert re.search(r"^gpu3 +removed", out, re.MULTILINE)
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    assert fleet.pids() == {agent: pid for agent, pid in before.items() if agent != "gpu3"}
    assert not list(fleet.host.path("/etc").rglob("*gpu3*"))
    assert "gpuhost:gpu3" not in fleet.workers()


def test_a_driver_that_does_not_answer_removes_nothing(fleet: Fleet) -> None:
    before = fleet.pids()
    set_gpus(fleet.host, "[system]\ninit_error = 9\n")
    result = fleet.apply(code=9)
    assert "Driver Not Loaded" in result["unknown"]
    assert fleet.pids() == before
    assert set(result["done"].values()) == {"unchanged"}


def test_a_lost_gpu_loses_its_agent_and_the_others_keep_theirs(fleet: Fleet) -> None:
    before = fleet.pids()
    set_gpus(fleet.host, described(*GPUS) + "[gpu 6]\nerror = 15\n")
    result = fleet.apply()
    assert result["done"]["gpu6"] == "removed"
    assert any("GPU 6 does not answer" in warning for warning in result["warnings"])
    assert fleet.pids() == {agent: pid for agent, pid in before.items() if agent != "gpu6"}


def test_changed_queues_restart_the_agent_and_leave_its_task_alone(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu4")
    before = fleet.pids()
    fleet.host.write("/etc/gpufleet/topology.conf", TOPOLOGY.replace('"queue 4", shared', '"queue 4", other') + "]\n")
    result = fleet.apply()
    assert {agent for agent, what in result["done"].items() if what == "restarted"} == {"gpu4"}
    after = fleet.pids()
    assert {agent for agent in AGENTS if after[agent] != before[agent]} == {"gpu4"}
    fleet.go("gpu4")
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    assert "queue 4, other" in fleet.host.property(unit_of("gpu4"), "StatusText")


def test_a_gpu_goes_from_agent_to_agent_only_when_its_task_has_ended(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu0")
    solo = '{{ name: solo, count: 1, gpu {{ model: "number {}" }}, queues: ["queue 0"] }}'
    others = TOPOLOGY.replace('"number 0"', '"number 9"')
    fleet.host.write("/etc/gpufleet/topology.conf", others + solo.format(0) + "]\n")
    result = fleet.apply("--no-wait")
    assert result["waiting"].keys() == {"gpu0", "solo"}
    assert fleet.host.property(unit_of("solo"), "ActiveState") == "inactive"
    fleet.go("gpu0")
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    assert fleet.apply()["waiting"] == {}
    assert fleet.host.property(unit_of("solo"), "ActiveState") == "active"

    task = create_script(fleet.server, WAITING, queue="queue 0")
    wait_for(lambda: console_of(fleet.server, task, level="DEBUG"))
    moved = TOPOLOGY.replace('"number 1"', '"number 9"').replace('"number 0"', '"number 9"')
    fleet.host.write("/etc/gpufleet/topology.conf", moved + solo.format(1) + "]\n")
    assert "solo" in fleet.apply("--no-wait")["waiting"]
    fence = "/etc/systemd/system/clearml-agents-solo.slice"
    assert "/dev/nvidia0 " in fleet.host.read(fence)
    fleet.go("solo")
    found = wait_for_status(fleet.server, task, "completed", "failed")
    assert (found["status"], found["last_worker"]) == ("completed", "gpuhost:solo")
    assert fleet.apply()["done"]["solo"] in {"replaced", "started"}
    assert "/dev/nvidia1 " in fleet.host.read(fence)
    assert fleet.host.property(unit_of("solo"), "ActiveState") == "active"


def test_cpu_agents_are_added_beside_the_gpus(fleet: Fleet) -> None:
    before = fleet.pids()
    fleet.host.write("/etc/gpufleet/topology.conf", TOPOLOGY + SERVICES + "]\n")
    result = fleet.apply()
    assert {agent for agent, what in result["done"].items() if what == "started"} == {"services0", "services1"}
    assert fleet.pids() == before
    task = create_script(fleet.server, "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))", queue="services")
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"


@pytest.mark.parametrize("how", ["systemctl kill", "daemon --stop"])
def test_a_task_can_be_ended_together_with_its_agent(fleet: Fleet, how: str) -> None:
    task = fleet.run_task(WAITING, "gpu5")
    if how == "systemctl kill":
        fleet.host.systemctl("kill", unit_of("gpu5"))
    else:
        stop = [f"{PRODUCT}/bin/clearml-agent", "--config-file", "/etc/gpufleet/clearml.conf", "daemon", "--stop"]
        fleet.host.run(*stop, "gpuhost:gpu5", env={"STATE_DIRECTORY": "/var/lib/clearml-agent"})
    assert wait_for_status(fleet.server, task, "stopped", "failed", "completed")["status"] == "stopped"
    fleet.host.wait_for_state(unit_of("gpu5"), "inactive")


def test_after_a_reboot_agents_are_back_and_interrupted_tasks_are_accounted_for(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu7")
    fleet.host.reboot()
    for agent in AGENTS:
        fleet.host.wait_for_state(unit_of(agent), "active")
    found = wait_for_status(fleet.server, task, "stopped", "failed")
    assert found["status_reason"]
    again = create_script(fleet.server, "print('again')", queue="queue 7")
    assert wait_for_status(fleet.server, again, "completed", "failed")["status"] == "completed"
    assert fleet.host.property("clearml-agents-apply.service", "Result") == "success"


def test_after_a_power_failure_the_task_is_reported_as_failed(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu7")
    fleet.host.crash()
    fleet.host.boot()
    assert wait_for_status(fleet.server, task, "stopped", "failed", seconds=60)["status"] == "failed"
    fleet.host.wait_for_state(unit_of("gpu7"), "active")


def test_a_gpu_that_is_gone_after_a_power_failure_leaves_no_task_behind(fleet: Fleet) -> None:
    task = fleet.run_task(WAITING, "gpu3")
    fleet.host.crash()
    fleet.host.write(DESCRIPTION, described(*(index for index in GPUS if index != 3)))
    fleet.host.boot()
    assert wait_for_status(fleet.server, task, "stopped", "failed", seconds=60)["status"] == "failed"
    assert fleet.apply()["done"]["gpu3"] == "removed"
    assert set(fleet.pids()) == set(AGENTS) - {"gpu3"}


def test_no_secret_can_be_read_by_other_users_or_seen_in_properties_and_command_lines(fleet: Fleet) -> None:
    secret = fleet.server.secret_key
    shown = fleet.host.systemctl("show", *(unit_of(agent) for agent in AGENTS)).stdout
    assert "EnvironmentFiles=/etc/gpufleet/agents/gpu0.env" in shown
    assert secret not in shown
    assert secret not in fleet.host.run("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout
    places = ["/etc", "/run", "/var/lib", "/var/log", "/tmp"]
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--")
    found = fleet.host.run(*nobody, "grep", "-rlsI", "--", secret, *places, check=False)
    assert (found.returncode, found.stdout) == (2, "")  # 2: there were files that it could not read
    assert fleet.host.run("grep", "-rlsI", "--", secret, "/etc").stdout.split() == ["/etc/gpufleet/clearml.conf"]


def test_the_journal_knows_task_and_worker(fleet: Fleet) -> None:
    task = create_script(fleet.server, "print('hello')", queue="queue 0")
    wait_for_status(fleet.server, task, "completed", "failed")

    def about_the_task() -> list[dict[str, Any]]:
        entries = fleet.host.journal_entries(unit_of("gpu0"))
        return [entry for entry in entries if entry.get("CLEARML_TASK") == task]

    entries = wait_for(about_the_task)
    assert {entry["CLEARML_WORKER"] for entry in entries} == {"gpuhost:gpu0"}


def test_units_on_the_host_are_clean_and_tight(fleet: Fleet) -> None:
    assert fleet.host.property(unit_of("gpu0"), "NUMAPolicy") == "preferred"
    assert fleet.host.property("clearml-agents-gpu0.slice", "DevicePolicy") == "closed"
    units = [*map(unit_of, AGENTS), *(f"clearml-agents-{agent}.slice" for agent in AGENTS)]
    shipped = ["clearml-agents.target", "clearml-agents.slice", "clearml-agents-apply.service"]
    done = fleet.host.run("systemd-analyze", "verify", "--man=no", *units, *shipped)
    assert done.stdout + done.stderr == ""
    fleet.host.run("systemd-analyze", "security", "--threshold=20", "--no-pager", *map(unit_of, AGENTS))


def test_the_shim_makes_the_units_where_etc_has_lost_them(fleet: Fleet, tmp_path: Path) -> None:
    host = fleet.host
    before = host.run("sh", "-c", "cd /etc/systemd/system && cat clearml-agents-gpu*.slice clearml-agent@gpu*/*").stdout
    fleet.host.systemctl("stop", *(unit_of(agent) for agent in AGENTS))
    host.run("rm", "-r", "/etc/gpufleet/agents", *_paths(host, "/etc/systemd/system/clearml-agent*"))
    host.systemctl("daemon-reload")
    made = host.run(
        "sh", "-c", "cd /run/systemd/generator && cat clearml-agents-gpu*.slice clearml-agent@gpu*/*"
    ).stdout
    assert made == before
    host.systemctl("start", "clearml-agents.target")
    for agent in AGENTS:
        host.wait_for_state(unit_of(agent), "active")


def _paths(host: Host, pattern: str) -> list[str]:
    return host.run("sh", "-c", f"ls -d {pattern}").stdout.split()


def test_the_commands_of_the_documentation_work(fleet: Fleet) -> None:
    page = ROOT / "docs/supervisor-gen.md"
    commands = [
        command
        for block in blocks_of(page)
        if block.tested_by.endswith("test_booted_fleet.py")
        for command in block.commands
    ]
    assert len(commands) == 10
    path = f"{PRODUCT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for command in commands:
        fleet.host.run("bash", "-euo", "pipefail", "-c", command, env={"PATH": path, "SYSTEMD_PAGER": "cat"})
