"""`systemctl reload` of an agent whose configuration is a copy that it was given, on a booted host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.agent import console_of, create_script, wait_for, wait_for_status
from support.hosts import PRODUCT, Host, host_network, install_gpus

pytestmark = pytest.mark.timeout(240)

UNIT = "clearml-agent@gpu0.service"
DESCRIPTION = (
    "[system]\ndriver_version = 550.90.07\n"
    "[gpu 0]\nname = NVIDIA H100\nuuid = GPU-00000000-0000-4000-8000-000000000000\n"
    "minor = 0\nbus_id = 00000000:1B:00.0\nnuma = 0\ncpus = 0\n"
)
TOPOLOGY = 'defaults { create_queue: true }\nagents: [ { gpu { index: 0 }, queues: ["training"] } ]\n'
COUNTING = """
import os, time
number = 0
while not os.path.exists("/tmp/go"):
    print("line", number, flush=True)
    number += 1
    time.sleep(0.01)
print("counted", number)
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[tuple[Host, Any]]:
    with host_network() as network, network.server() as server, network.boot("reloaded") as host:
        install_gpus(host, DESCRIPTION)
        host.write("/etc/gpufleet/clearml.conf", server.conf_path.read_text(), mode=0o600)
        host.write("/etc/gpufleet/topology.conf", TOPOLOGY)
        host.run(f"{PRODUCT}/bin/supervisor-gen", "apply")
        host.wait_for_state(UNIT, "active")
        yield host, server


def report_of(host: Host) -> dict[str, Any]:
    """What root is told, as docs/operations.md says."""
    words = ("env", "STATE_DIRECTORY=/var/lib/clearml-agent", f"{PRODUCT}/bin/clearml-agent", "status", "--json")
    (agent,) = json.loads(host.run(*words).stdout)["agents"]
    found: dict[str, Any] = agent
    return found


def test_a_changed_file_comes_into_force_and_a_wrong_one_does_not(booted: tuple[Host, Any]) -> None:
    host, server = booted
    task = create_script(server, COUNTING, queue="training")
    wait_for(lambda: console_of(server, task, level="DEBUG"), what="the first line")
    pid, begun = host.property(UNIT, "MainPID"), server.conf_path.read_text()

    host.write("/etc/gpufleet/clearml.conf", f'{begun}\nagent {{ uptime: ["00-24 MON-SUN"] }}\n', mode=0o600)
    host.systemctl("reload", UNIT)
    report = report_of(host)
    assert (report["pid"], report["hours"]["uptime"]) == (int(pid), ["00-24 MON-SUN"])
    assert (report["worker"], report["tasks"][0]["id"]) == ("reloaded:gpu0", task)
    host.wait_for_state(UNIT, "active")
    assert host.property(UNIT, "MainPID") == pid

    host.write("/etc/gpufleet/clearml.conf", f"{begun}\nagent {{ polling_interval_sec: soon }}\n", mode=0o600)
    assert host.systemctl("reload", UNIT, check=False).returncode != 0
    assert "/etc/gpufleet/clearml.conf: agent.polling_interval_sec is 'soon'" in host.journal(UNIT)
    assert report_of(host)["hours"]["uptime"] == ["00-24 MON-SUN"]
    host.wait_for_state(UNIT, "active")
    assert (host.property(UNIT, "MainPID"), host.property(UNIT, "NRestarts")) == (pid, "0")

    host.write("/var/lib/clearml-agent/tmp/gpu0/go", "")
    assert wait_for_status(server, task, "completed", "failed")["status"] == "completed"
    *counted, last = [line for line in console_of(server, task, level="DEBUG") if line.startswith(("line", "counted"))]
    assert counted == [f"line {number}" for number in range(len(counted))]
    assert last == f"counted {len(counted)}"
