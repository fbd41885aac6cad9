"""Hosts as configuration management meets them: an operator who logs in over ssh, and hosts without systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_nvml import CONFIGS
from support.hosts import OPERATOR, Host, Init, Network, host_network, install_gpus

QUIETLY = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with host_network() as network:
        yield network


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def over_ssh(host: Host, key: Path, words: str) -> str:
    options = [word for option in QUIETLY for word in ("-o", option)]
    command = ["ssh", "-i", str(key), *options, f"{OPERATOR}@{host.address}", words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def nodes_of(host: Host) -> list[str]:
    return sorted(f"/dev/{path.name}" for path in host.path("/dev").glob("nvidia[0-9]*"))


@pytest.mark.parametrize("init", ["systemd", "plain"])
def test_operator_logs_in_and_becomes_root_before_and_after_a_reboot(network: Network, key: Path, init: Init) -> None:
    with network.boot(f"ssh-{init}", init=init) as host:
        host.allow_ssh(key.with_suffix(".pub").read_text())
        assert over_ssh(host, key, "id -un; sudo id -un") == f"{OPERATOR}\nroot"
        host.reboot()
        host.wait_for(host.answers_ssh)
        assert over_ssh(host, key, "id -un; sudo id -un") == f"{OPERATOR}\nroot"


def test_nobody_listens_on_a_host_that_ssh_was_not_allowed_on(network: Network) -> None:
    with network.boot("closed") as host:
        assert not host.answers_ssh()


def test_a_plain_host_shows_no_systemd_and_keeps_its_gpus(network: Network) -> None:
    with network.boot("plain", init="plain") as host:
        assert host.read("/proc/1/comm").strip() == "init"
        assert host.run("test", "-e", "/run/systemd/system", check=False).returncode == 1
        assert host.run("sh", "-c", "command -v systemctl", check=False).returncode == 127
        install_gpus(host, CONFIGS / "2xa100-mig.conf")
        assert nodes_of(host) == ["/dev/nvidia0", "/dev/nvidia1"]
        host.reboot()
        assert nodes_of(host) == ["/dev/nvidia0", "/dev/nvidia1"]
        assert "gpu0/gi0/access" in host.read("/proc/driver/nvidia-caps/mig-minors")


def test_a_plain_host_runs_rc_local_when_it_boots_and_reaps_orphans(network: Network) -> None:
    with network.boot("plain-rc", init="plain") as host:
        host.write("/etc/rc.local", "#!/bin/sh\necho up >>/var/lib/boots\n", mode=0o755)
        host.reboot()
        assert host.read("/var/lib/boots") == "up\n"
        host.run("sh", "-c", "(sh -c 'exit 3' &) ; sleep 0.1")
        host.wait_for(lambda: "defunct" not in host.run("ps", "-A").stdout, what="no zombies")


def test_a_host_to_install_on_has_an_empty_place_for_the_product(network: Network) -> None:
    with network.boot("bare", installed=False) as host:
        assert not list(host.path("/opt/gpufleet").iterdir())
        host.write("/opt/gpufleet/here", "writable")
