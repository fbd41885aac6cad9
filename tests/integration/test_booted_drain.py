"""`supervisor-gen drain`, `resume` and `status` on a booted host: what is held stays so over crashes and reboots.

Each test begins with two agents that run and nothing held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.agent import console_of, create_script, status_of, wait_for, wait_for_status
from support.documents import ROOT, blocks_of
from support.hosts import PRODUCT, Host, host_network, install_gpus, set_gpus

pytestmark = pytest.mark.timeout(240)

AGENTS = ["gpu0", "gpu1"]
SYSTEM = "[system]\ndriver_version = 550.90.07\n"
DESCRIPTION = SYSTEM + "".join(
    f"[gpu {index}]\nname = NVIDIA H100 number {index}\nuuid = GPU-00000000-0000-4000-8000-00000000000{index}\n"
    f"minor = {index}\nbus_id = 00000000:{0x1B + index:02X}:00.0\nnuma = 0\ncpus = 0\n"
    for index in range(2)
)
TOPOLOGY = "defaults { create_queue: true }\nagents: [\n" + "".join(
    f'  {{ gpu {{ index: {index} }}, queues: ["queue {index}"] }}\n' for index in range(2)
)
WAITING = """
import os, time
print("waiting", flush=True)
while not os.path.exists("/tmp/go"):
    time.sleep(0.05)
os.unlink("/tmp/go")
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    host: Host
    server: Any

    def generator(self, command: str, *words: str, code: int = 0) -> dict[str, Any]:
        line = (f"{PRODUCT}/bin/supervisor-gen", command, "--json", *words)
        done = self.host.run(*line, check=False, timeout=120)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def waiting_task(self, index: int) -> str:
        """A task that agent `gpu<index>` runs until `go`."""
        task = create_script(self.server, WAITING, queue=f"queue {index}")
        wait_for(lambda: console_of(self.server, task, level="DEBUG"), what="the first line")
        return task

    def go(self, agent: str) -> None:
        self.host.write(f"/var/lib/clearml-agent/tmp/{agent}/go", "")

    def state(self, agent: str) -> str:
        return self.host.property(f"clearml-agent@{agent}.service", "ActiveState")

    def pid(self, agent: str) -> str:
        return self.host.property(f"clearml-agent@{agent}.service", "MainPID")


@pytest.fixture(scope="module")
def booted() -> Iterator[Fleet]:
    with host_network() as network, network.server() as server, network.boot("drained") as host:
        install_gpus(host, DESCRIPTION)
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        yield Fleet(host, server)


@pytest.fixture
def fleet(booted: Fleet) -> Fleet:
    booted.host.write("/etc/gpufleet/topology.conf", TOPOLOGY + "]\n")
    booted.generator("apply")
    for agent, found in booted.generator("status")["agents"].items():
        if found["tasks"]:  # of a test that has failed
            booted.go(agent)
    booted.generator("resume")
    assert {agent: booted.state(agent) for agent in AGENTS} == dict.fromkeys(AGENTS, "active")
    return booted


def test_a_drain_waits_for_the_task_and_an_apply_in_between_leaves_it_alone(fleet: Fleet) -> None:
    task = fleet.waiting_task(0)
    with fleet.host.start(f"{PRODUCT}/bin/supervisor-gen", "drain", "--why", "new disks") as drain:
        assert drain.stderr
        read_until(drain.stderr, "gpu0: draining: running task")
        assert fleet.generator("apply")["done"] == {"gpu0": "held: draining", "gpu1": "held: left alone"}
        assert drain.poll() is None
        assert fleet.generator("drain", "--timeout", "0", code=1)["running"].keys() == {"gpu0"}
        fleet.go("gpu0")
        out, err = drain.communicate(timeout=30)
    assert drain.returncode == 0, err
    assert "new disks" in out
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    again = fleet.generator("drain")
    assert (again["changed"], again["left"], again["running"]) == (False, AGENTS, {})
    other = create_script(fleet.server, "print('other')", queue="queue 0")
    assert fleet.generator("resume")["changed"]
    assert wait_for_status(fleet.server, other, "completed", "failed")["status"] == "completed"


def read_until(stream: Any, text: str) -> None:
    """Read lines up to one that has `text`."""
    lines = ""
    while text not in lines:
        line = stream.readline()
        assert line, lines
        lines += line


def test_an_agent_that_is_killed_amid_its_drain_comes_back_and_goes_on_draining(fleet: Fleet) -> None:
    task = fleet.waiting_task(0)
    fleet.generator("drain", "--gpu", "0", "--no-wait")
    before = fleet.pid("gpu0")
    fleet.host.systemctl("kill", "--kill-who=main", "--signal=KILL", "clearml-agent@gpu0.service")
    wait_for(lambda: fleet.pid("gpu0") not in ("0", before))
    fleet.host.wait_for_state("clearml-agent@gpu0.service", "active")
    found = fleet.generator("status", "gpu0")["agents"]["gpu0"]
    assert (found["condition"], found["tasks"], found["worker"]) == ("running", [task], "drained:gpu0")
    assert found["says"].startswith("draining: running task")
    assert found["gpus"][0]["model"] == "NVIDIA H100 number 0"
    other = create_script(fleet.server, "print('other')", queue="queue 0")
    fleet.go("gpu0")
    assert fleet.generator("drain", "gpu0")["left"] == ["gpu0"]
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    fleet.host.systemctl("start", "clearml-agent@gpu0.service")
    wait_for(lambda: fleet.state("gpu0") == "inactive")
    assert status_of(fleet.server, other) == "queued"
    assert fleet.state("gpu1") == "active"
    fleet.generator("resume", "gpu0")
    wait_for_status(fleet.server, other, "completed")


def test_a_host_that_was_drained_comes_back_drained_and_nothing_has_failed(fleet: Fleet) -> None:
    fleet.generator("drain")
    waiting = create_script(fleet.server, "print('waits')", queue="queue 0")
    fleet.host.reboot()
    fleet.host.wait_for_state("clearml-agents-apply.service", "active")
    wait_for(lambda: [fleet.state(agent) for agent in AGENTS] == ["inactive", "inactive"])
    assert fleet.host.run("systemctl", "is-system-running").stdout.strip() == "running"
    assert "held: no task is taken" in fleet.host.journal("clearml-agent@gpu0.service")
    assert status_of(fleet.server, waiting) == "queued"
    assert set(fleet.generator("apply")["done"].values()) == {"held: left alone"}
    fleet.generator("resume")
    wait_for_status(fleet.server, waiting, "completed")


def test_what_a_power_failure_interrupts_amid_a_drain_is_accounted_for(fleet: Fleet) -> None:
    task = fleet.waiting_task(1)
    fleet.generator("drain", "gpu1", "--no-wait")
    other = create_script(fleet.server, "print('other')", queue="queue 1")
    fleet.host.crash()
    fleet.host.boot()
    assert wait_for_status(fleet.server, task, "stopped", "failed", seconds=60)["status"] == "failed"
    wait_for(lambda: fleet.state("gpu1") == "inactive")
    assert status_of(fleet.server, other) == "queued"
    fleet.generator("resume")
    wait_for_status(fleet.server, other, "completed")


@pytest.mark.parametrize("gpus", ["[system]\ninit_error = 9\n", SYSTEM])
def test_a_held_agent_does_not_fail_for_want_of_its_gpu(fleet: Fleet, gpus: str) -> None:
    fleet.generator("drain", "gpu1")
    set_gpus(fleet.host, gpus)
    try:
        fleet.host.systemctl("start", "clearml-agent@gpu1.service")
        wait_for(lambda: fleet.state("gpu1") == "inactive")
        assert fleet.host.property("clearml-agent@gpu1.service", "Result") == "success"
    finally:
        set_gpus(fleet.host, DESCRIPTION)


def test_an_agent_is_resumed_after_it_has_left(fleet: Fleet) -> None:
    task = fleet.waiting_task(0)
    fleet.generator("drain", "gpu0", "--no-wait")
    with fleet.host.start(f"{PRODUCT}/bin/supervisor-gen", "resume", "gpu0") as resume:
        assert resume.stderr
        read_until(resume.stderr, "gpu0: draining")
        fleet.go("gpu0")
        out, err = resume.communicate(timeout=60)
    assert resume.returncode == 0, err
    assert "resumed" in out
    assert wait_for_status(fleet.server, task, "completed", "failed")["status"] == "completed"
    assert fleet.state("gpu0") == "active"
    assert fleet.generator("status", "gpu0")["agents"]["gpu0"]["held"] is None


def test_nobody_but_root_drains_or_looks(fleet: Fleet) -> None:
    for command in ("drain", "resume", "status"):
        done = fleet.host.run(f"{PRODUCT}/bin/supervisor-gen", command, user="clearml", check=False)
        assert (done.returncode, "Run as root" in done.stderr) == (3, True), done.stderr


def test_the_commands_of_the_documentation_work(fleet: Fleet) -> None:
    blocks = [
        block
        for block in blocks_of(ROOT / "docs/supervisor-gen.md")
        if block.tested_by.endswith("test_booted_drain.py")
    ]
    path = f"{PRODUCT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    commands = [command for block in blocks for command in block.commands]
    assert len(commands) >= 5
    for command in commands:
        fleet.host.run("bash", "-euo", "pipefail", "-c", command, env={"PATH": path}, timeout=90)
