"""What tests may rely on in a booted host (support.hosts), and what systemd does there that the units are built on.

The device tests look at two GPUs without a driver: EPERM is the device policy's no, ENXIO its yes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.agent import wait_for
from support.apiserver import ServerProcess
from support.fake_nvml import CONFIGS
from support.hosts import MODES, PRODUCT, Host, Mode, Network, host_network, install_gpus, machine, set_gpus

MIG_DESCRIPTION = CONFIGS / "2xa100-mig.conf"  # GPU 0 is cut into slices, GPU 1 is whole

OPEN_DEVICES = """
import errno, os, sys
def answer(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "opened"
print(*(answer(path) for path in sys.argv[1:]))
"""
# A child of a service that is asked through one named pipe and answers through another.
ASKED_AGAIN_AND_AGAIN = """
import subprocess, sys
while True:
    paths = open("/var/lib/ask").read().split()
    with open("/var/lib/answer", "w") as answer:
        subprocess.run([sys.executable, "/var/lib/open_devices.py", *paths], stdout=answer)
"""
AGENT_LIKE = """\
[Service]
ExecStart=/bin/sh -c '/usr/bin/python3 /var/lib/task.py & exec sleep infinity'
KillMode=process
Slice=fence.slice
DevicePolicy=closed
DeviceAllow=/dev/nvidia0 rw
"""
FENCE = "[Slice]\nDevicePolicy=closed\nDeviceAllow={device} rw\n"

# Names of the GPUs as the product's own binding reads them.
NAME_GPUS = """
import pynvml
pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
print(*(pynvml.nvmlDeviceGetName(handle) for handle in handles), sep="\\n")
"""

# A session that is killed while its host is up.
KILLED_SESSION = """
import signal, sys
from support.hosts import host_network
with host_network() as network, network.boot(sys.argv[1]) as host:
    print(network.session.number, host.leader(), flush=True)
    signal.pause()
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with host_network() as network:
        yield network


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[dict[Mode, Host]]:
    with ExitStack() as stack:
        booted = {mode: stack.enter_context(network.boot(f"host-{mode}", mode=mode)) for mode in MODES}
        for host in booted.values():
            install_gpus(host, MIG_DESCRIPTION)
        yield booted


@pytest.fixture(scope="module")
def server(network: Network) -> Iterator[ServerProcess]:
    with network.server() as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
def test_a_host_boots_to_running_without_a_failed_unit(hosts: dict[Mode, Host], mode: Mode) -> None:
    host = hosts[mode]
    assert host.systemctl("is-system-running").stdout == "running\n"
    assert host.systemctl("--failed", "--no-legend").stdout == ""
    kind = host.run("stat", "--file-system", "--format=%T", "/sys/fs/cgroup").stdout.strip()
    assert kind == {"unified": "cgroup2fs", "hybrid": "tmpfs"}[mode]


@pytest.mark.parametrize("mode", MODES)
def test_a_unit_opens_the_devices_of_its_policy_and_no_others(hosts: dict[Mode, Host], mode: Mode) -> None:
    closed = ("-p", "DevicePolicy=closed", "-p", "DeviceAllow=/dev/nvidia0 rw")
    seen = hosts[mode].run(
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *closed),
        *("python3", "-c", OPEN_DEVICES, "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/null"),
    )
    assert seen.stdout.split() == ["ENXIO", "EPERM", "EPERM", "opened"]


@pytest.mark.parametrize("mode", MODES)
def test_a_rule_for_a_driver_that_is_not_loaded_is_passed_over_and_the_others_hold(
    hosts: dict[Mode, Host], mode: Mode
) -> None:
    """nvidia-uvm has a number only while its module is loaded: `char-nvidia-uvm` opens nothing before."""
    rules = ("-p", "DevicePolicy=closed", "-p", "DeviceAllow=char-nvidia-uvm rw", "-p", "DeviceAllow=/dev/nvidia0 rw")
    seen = hosts[mode].run(
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *rules),
        *("python3", "-c", OPEN_DEVICES, "/dev/nvidia0", "/dev/nvidia-uvm"),
    )
    assert seen.stdout.split() == ["ENXIO", "EPERM"]


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode == "hybrid"])
def test_a_limit_on_memory_ends_what_takes_more(hosts: dict[Mode, Host], mode: Mode) -> None:
    limits = ("-p", "MemoryMax=64M", "-p", "MemorySwapMax=0")
    fill = "import sys; bytearray(int(sys.argv[1]) << 20)"
    take = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *limits, "python3", "-c", fill)
    assert hosts[mode].run(*take, "32", check=False).returncode == 0
    assert hosts[mode].run(*take, "256", check=False).returncode != 0


@pytest.fixture
def outlived(hosts: dict[Mode, Host], mode: Mode) -> Iterator[Host]:
    """A host with a unit that was fenced to GPU 0, and stopped; its child runs on. The slice has no rules."""
    host = hosts[mode]
    host.write("/var/lib/open_devices.py", OPEN_DEVICES)
    host.write("/var/lib/task.py", ASKED_AGAIN_AND_AGAIN)
    host.write("/etc/systemd/system/outlived.service", AGENT_LIKE)
    host.write("/etc/systemd/system/fence.slice", "[Slice]\n")
    host.run("mkfifo", "/var/lib/ask", "/var/lib/answer")
    host.systemctl("daemon-reload")
    host.systemctl("start", "outlived.service")
    assert openings(host) == ["ENXIO", "EPERM"]
    host.systemctl("stop", "outlived.service")
    yield host
    host.systemctl("kill", "--signal=KILL", "outlived.service")
    host.systemctl("stop", "fence.slice")
    host.run("rm", "-f", "/var/lib/ask", "/var/lib/answer", "/etc/systemd/system/outlived.service")
    host.systemctl("daemon-reload")


def openings(host: Host) -> list[str]:
    """What the child of the unit is told when it opens GPU 0 and GPU 1."""
    asked = "echo /dev/nvidia0 /dev/nvidia1 >/var/lib/ask; cat /var/lib/answer"
    return host.run("sh", "-c", asked, timeout=10).stdout.split()


@pytest.mark.parametrize("mode", MODES)
def test_what_outlives_its_unit_stays_behind_the_units_fence(outlived: Host, mode: Mode) -> None:
    assert outlived.property("outlived.service", "ActiveState") == "inactive"
    assert openings(outlived) == ["ENXIO", "EPERM"]
    outlived.run("rm", "/etc/systemd/system/outlived.service")
    outlived.systemctl("daemon-reload")
    assert openings(outlived) == ["ENXIO", "EPERM"]
    outlived.systemctl("daemon-reexec")
    assert openings(outlived) == ["ENXIO", "EPERM"]


@pytest.mark.parametrize("mode", ["unified"])
def test_only_the_slice_takes_a_device_away_from_what_outlived_its_unit(outlived: Host, mode: Mode) -> None:
    """Rules of a unit that is not active are not looked at; the slice is active as long as there is somebody in it."""
    unit = "/etc/systemd/system/outlived.service"
    outlived.write(unit, AGENT_LIKE.replace("DeviceAllow=/dev/nvidia0 rw\n", ""))
    outlived.systemctl("daemon-reload")
    assert openings(outlived) == ["ENXIO", "EPERM"]
    outlived.write("/etc/systemd/system/fence.slice", FENCE.format(device="/dev/nvidia1"))
    outlived.systemctl("daemon-reload")
    assert openings(outlived) == ["EPERM", "EPERM"]


@pytest.mark.parametrize("mode", MODES)
def test_a_reboot_and_a_crash_leave_the_disk_the_journal_and_the_gpus(hosts: dict[Mode, Host], mode: Mode) -> None:
    host = hosts[mode]
    host.write("/var/lib/kept", mode)
    host.run("systemd-run", "--quiet", "--wait", "--unit=before", "echo", "said before")
    host.run("touch", "/run/forgotten")
    host.reboot()
    assert kept_and_forgotten(host) == (mode, "ENXIO", "ENOENT", "said before\n")
    host.run("touch", "/run/forgotten")
    host.crash()
    host.boot()
    assert kept_and_forgotten(host) == (mode, "ENXIO", "ENOENT", "said before\n")


def kept_and_forgotten(host: Host) -> tuple[str, ...]:
    """A file of the disk, the node of a GPU, a file in memory, a message in the journal."""
    node, forgotten = host.run("python3", "-c", OPEN_DEVICES, "/dev/nvidia1", "/run/forgotten").stdout.split()
    said = "".join(line for line in host.journal("before").splitlines(keepends=True) if line.startswith("said"))
    return host.read("/var/lib/kept"), node, forgotten, said


def test_the_product_runs_in_a_host_with_debians_own_python(hosts: dict[Mode, Host]) -> None:
    host = hosts["unified"]
    assert host.run(f"{PRODUCT}/bin/clearml-agent", "--version").stdout.startswith("CLEARML-AGENT version ")
    where = host.run(f"{PRODUCT}/bin/python", "-c", "import sys, agent; print(sys.base_prefix, agent.__file__)").stdout
    assert where.startswith("/usr /opt/gpufleet/")


def test_a_host_reaches_a_server_at_the_address_in_its_configuration(
    hosts: dict[Mode, Host], server: ServerProcess
) -> None:
    host = hosts["unified"]
    assert f'"{server.api}"' in server.conf_path.read_text()
    ping = "import json, sys, urllib.request as u; print(json.load(u.urlopen(sys.argv[1]))['meta']['result_code'])"
    assert host.run("python3", "-c", ping, f"{server.api}/debug.ping").stdout == "200\n"


def test_gpus_are_read_through_the_binding_and_can_be_exchanged_while_a_host_runs(hosts: dict[Mode, Host]) -> None:
    host = hosts["unified"]
    read = (f"{PRODUCT}/bin/python", "-c", NAME_GPUS)
    assert host.run(*read).stdout.splitlines() == ["NVIDIA A100-SXM4-40GB"] * 2
    try:
        set_gpus(host, CONFIGS / "8xh100.conf")
        assert host.run(*read).stdout.splitlines() == ["NVIDIA H100 80GB HBM3"] * 8
        assert host.run("python3", "-c", OPEN_DEVICES, "/dev/nvidia7").stdout == "ENXIO\n"
    finally:
        set_gpus(host, MIG_DESCRIPTION)
        host.run("sh", "-c", "rm -f /dev/nvidia[2-7]")


def test_slices_have_the_nodes_that_the_driver_lists(hosts: dict[Mode, Host]) -> None:
    host = hosts["unified"]
    listed = dict(line.split() for line in host.run("cat", "/proc/driver/nvidia-caps/mig-minors").stdout.splitlines())
    assert (listed["gpu0/gi0/access"], listed["gpu0/gi0/ci0/access"], listed["gpu0/gi1/access"]) == ("3", "4", "12")
    assert not [name for name in listed if name.startswith("gpu1/")]
    node = f"/dev/nvidia-caps/nvidia-cap{listed['gpu0/gi7/ci0/access']}"
    assert host.run("python3", "-c", OPEN_DEVICES, node).stdout == "ENXIO\n"


def test_what_a_killed_session_left_behind_goes_with_the_next_one(network: Network) -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    name = f"orphan{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", KILLED_SESSION, name], env=env, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        number, leader = (int(word) for word in session.stdout.readline().split())
        record = json.loads((machine.REGISTRY / str(number)).read_text())
        places = [Path(f"/run/netns/gft{number}-{name}"), Path(record["folder"]) / name]
        places += [Path(group) / name for group in record["cgroups"]]
        assert all(place.exists() for place in places)
        session.send_signal(signal.SIGKILL)
    with host_network():
        assert not [place for place in places if place.exists()]
        assert name not in Path("/proc/self/mounts").read_text()
        wait_for(lambda: not Path(f"/proc/{leader}/cmdline").exists(), what="the host's PID 1 has been reaped")
