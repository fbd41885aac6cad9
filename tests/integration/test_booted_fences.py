"""What the units hold a task to on other hosts: slices of one GPU, and limits where the kernel enforces them."""

from __future__ import annotations

import json

import pytest
from support.agent import console_of, create_script, wait_for_status
from support.hosts import MODES, PRODUCT, Host, host_network, install_gpus

pytestmark = pytest.mark.timeout(240)

MIG = """\
[system]
driver_version = 550.90.07
[gpu 0]
mig = 1
cpus = 0
numa = 0
[mig 0 0-1]
profile = 3g.40gb
memory_total_mib = 40448
[mig 0 1]
gi = 2
"""
#: Which capability nodes of MIG can be opened: the driver's numbers are in the names.
OPENING = """
import errno, os
def opened(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return errno.errorcode[error.errno]
caps = {name: opened(f"/dev/nvidia-caps/{name}") for name in os.listdir("/dev/nvidia-caps")}
print("caps", *sorted(name for name, error in caps.items() if error == "ENXIO"))
print("others", *sorted({error for error in caps.values() if error != "ENXIO"}))
print("gpu", opened("/dev/nvidia0"))
"""
GREEDY = """
import os
print("begins", flush=True)
blocks = [os.urandom(1 << 20) * 32 for _ in range(64)]
print("has it all")
"""


def apply(host: Host) -> list[str]:
    done = host.run(f"{PRODUCT}/bin/supervisor-gen", "apply", "--json", timeout=120)
    return sorted(json.loads(done.stdout)["done"])


def test_agents_on_slices_of_one_gpu_cannot_open_each_others_slices() -> None:
    with host_network() as network, network.server() as server, network.boot("mighost") as host:
        install_gpus(host, MIG)
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        host.write(
            "/etc/gpufleet/topology.conf",
            'agents: [ { gpu { mig: "3g.*" }, create_queue: true, queues: [slices] } ]\n',
        )
        assert apply(host) == ["gpu0mig0", "gpu0mig1"]
        minors = dict(line.split() for line in host.read("/etc/fake-nvidia/nvidia-caps/mig-minors").splitlines())
        own = {
            agent: sorted(f"nvidia-cap{minors[f'gpu0/gi{instance}/{access}']}" for access in ("access", "ci0/access"))
            for agent, instance in (("gpu0mig0", 7), ("gpu0mig1", 2))
        }
        host.systemctl("stop", "clearml-agent@gpu0mig1")
        for agent, other in (("gpu0mig0", "gpu0mig1"), ("gpu0mig1", "gpu0mig0")):
            task = create_script(server, OPENING, queue="slices")
            found = wait_for_status(server, task, "completed", "failed")
            assert (found["status"], found["last_worker"]) == ("completed", f"mighost:{agent}")
            lines = console_of(server, task, level="DEBUG")
            assert lines == [f"caps {' '.join(own[agent])}", "others EPERM", "gpu ENXIO"]
            host.systemctl("start", f"clearml-agent@{other}")
            host.systemctl("stop", f"clearml-agent@{agent}")


def test_a_task_that_takes_too_much_memory_is_killed_and_its_agent_lives_on() -> None:
    assert "hybrid" in MODES
    with host_network() as network, network.server() as server, network.boot("oldhost", mode="hybrid") as host:
        install_gpus(host, "[gpu 0]\ncpus = 0\nnuma = 0\n")
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        host.write(
            "/etc/gpufleet/topology.conf",
            "defaults { create_queue: true, limits { memory: 300M, tasks: 200, cpu_weight: 50 } }\n"
            "agents: [ { queues: [greedy] } ]\n",
        )
        assert apply(host) == ["gpu0"]
        before = host.property("clearml-agent@gpu0", "MainPID")
        task = create_script(server, GREEDY, queue="greedy")
        found = wait_for_status(server, task, "completed", "failed", seconds=60)
        assert (found["status"], found["status_reason"]) == ("failed", "worker execution exit code -9")
        again = create_script(server, "print('modest')", queue="greedy")
        assert wait_for_status(server, again, "completed", "failed")["status"] == "completed"
        assert host.property("clearml-agent@gpu0", "MainPID") == before
        assert host.property("clearml-agents-gpu0.slice", "TasksMax") == "200"
