"""docs/operations.md from its first command to its last, on a server and two GPU hosts that boot for it.

The commands run in a copy of this checkout, beginning with `make wheelhouse`; the two files that the page has the
reader write are taken from it, with the addresses of the hosts that there are. README.md's commands for a fleet run
amid them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.agent import console_of, create_script, wait_for, wait_for_status
from support.documents import ROOT, Block, blocks_of
from support.hosts import Host, host_network, install_gpus, set_gpus

from demo.api import Account, Api

PAGE = ROOT / "docs/operations.md"
ADDRESSES = {"clearml": "192.0.2.10", "gpu01": "192.0.2.11", "gpu02": "192.0.2.12"}
#: What the commands need of a checkout.
SOURCES = (
    *("agent", "ansible", "apiserver", "demo", "supervisor_gen", "systemd", "tools"),
    *("Makefile", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"),
)
PREAMBLE = """\
set -eE -o pipefail
trap 'printf "failed: %s\\n" "$BASH_COMMAND" >&2' ERR
"""
GPUS = "[system]\ndriver_version = 550.90.07\n" + "".join(
    f"[gpu {index}]\nname = NVIDIA H100 number {index}\nuuid = GPU-00000000-0000-4000-8000-00000000000{index}\n"
    f"minor = {index}\nbus_id = 00000000:{0x1B + index:02X}:00.0\nnuma = 0\ncpus = 0\n"
    for index in range(2)
)
LOST = GPUS + "[gpu 1]\nerror = 15\n"
WORKERS = sorted(f"{host}:{agent}" for host in ("gpu01", "gpu02") for agent in ("gpu0", "gpu1", "services"))
COUNTS = """
import itertools, os, time
for number in itertools.count():
    print("tick", number, flush=True)
    if os.path.exists("/tmp/go"):
        break
    time.sleep(0.1)
"""


@dataclass(kw_only=True)
class Walk:
    """Somebody who reads the page and does what it says."""

    folder: Path
    hosts: Mapping[str, Host]
    environ: Mapping[str, str]
    blocks: list[Block] = field(default_factory=lambda: _blocks_of_this_test(PAGE))
    output: str = ""

    def do(self, beginning: str, *, on: str | None = None, seconds: float = 150) -> str:
        """The next block, which begins so; what it printed."""
        block = self.blocks.pop(0)
        assert block.commands[0].startswith(beginning)
        return self.run(*block.commands, on=on, seconds=seconds)

    def run(self, *commands: str, on: str | None = None, seconds: float = 150, code: int = 0) -> str:
        script = PREAMBLE + "\n".join(commands)
        if on is not None:
            return self.hosts[on].run("bash", "-c", script).stdout
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == code, done.stdout[-12000:]
        return done.stdout

    # --- what came of it

    def call(self, endpoint: str, /, **fields: Any) -> dict[str, Any]:
        """Ask the server, as people do."""
        api = Api(Account.from_file(self.folder / "clearml.conf"))
        try:
            return api(endpoint, **fields)
        finally:
            api.close()

    def workers(self) -> dict[str, list[str]]:
        """The tags of all agents that the server knows."""
        found = self.call("workers.get_all", last_seen=600)["workers"]
        return {worker["id"]: worker["tags"] for worker in found if worker["id"].count(":") == 1}

    def agents(self, host: str) -> dict[str, dict[str, Any]]:
        """What `supervisor-gen status` says of the agents of a host."""
        told = self.hosts[host].run("/opt/gpufleet/current/bin/supervisor-gen", "status", "--json").stdout
        agents: dict[str, dict[str, Any]] = json.loads(told)["agents"]
        return agents

    def versions(self) -> set[str]:
        return {agent["version"] for host in ("gpu01", "gpu02") for agent in self.agents(host).values()}

    def held(self, host: str) -> set[str]:
        return {name for name, agent in self.agents(host).items() if agent["held"]}


def _blocks_of_this_test(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.tested_by == Path(__file__).relative_to(ROOT).as_posix()]


def _file_of_the_page(language: str) -> str:
    """The first block of that language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, language
    return found[1]


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    folder = tmp_path / "gpufleet"
    _copy_checkout(folder)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with (
        host_network() as network,
        network.boot("clearml", installed=False) as server,
        network.boot("gpu01", installed=False) as first,
        network.boot("gpu02", installed=False) as second,
    ):
        hosts = {"clearml": server, "gpu01": first, "gpu02": second}
        for host in hosts.values():
            host.allow_ssh(key.with_suffix(".pub").read_text())
        for host in (first, second):
            install_gpus(host, GPUS)
        inventory = _file_of_the_page("yaml")
        for name, host in hosts.items():
            assert ADDRESSES[name] in inventory
            inventory = inventory.replace(ADDRESSES[name], host.address)
        (folder / "inventory.yml").write_text(inventory)
        (folder / "ansible.cfg").write_text(_file_of_the_page("ini"))
        yield Walk(folder=folder, hosts=hosts, environ=_environ(tmp_path, key))


def _copy_checkout(folder: Path) -> None:
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("pyproject.toml", "tools/setup.sh"):  # older than .venv, which make would fill from here otherwise
        os.utime(folder / name, (0, 0))


def _environ(home: Path, key: Path) -> dict[str, str]:
    ours = ("ANSIBLE", "CLEARML_", "MAKE", "VENV")  # make's say where the environment of the whole test run is
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **inherited,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ".",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(ROOT / ".cache/uv")),
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_PRIVATE_KEY_FILE": str(key),
        "ANSIBLE_PYTHON_INTERPRETER": "auto_silent",
        "ANSIBLE_NOCOLOR": "1",
    }


@pytest.mark.timeout(600)
def test_the_page_works_from_its_first_command_to_its_last(walk: Walk) -> None:
    from_nothing_to_a_fleet(walk)
    upgrade(walk)
    drain(walk)
    hours(walk)
    back_up_and_restore(walk)
    break_and_repair(walk)
    remove(walk)
    assert walk.blocks == []


def from_nothing_to_a_fleet(walk: Walk) -> None:
    shown = walk.do("make wheelhouse", seconds=300)
    rows = [line.split() for line in shown.splitlines() if re.search(r"gpu0[12] +(gpu[01]|services) +idle", line)]
    assert len(rows) == 6, shown
    shown = walk.do("ansible gpu01")
    assert "gpu01:gpu0" in shown
    assert sorted(walk.workers()) == WORKERS


def upgrade(walk: Walk) -> None:
    """A task runs through all of it."""
    [before] = walk.versions()
    other = walk.folder / "build/wheelhouse-0.2.0"
    subprocess.run(
        [sys.executable, ROOT / "molecule/variant.py", walk.folder / "build/wheelhouse", other, "0.2.0"], check=True
    )
    task = create_script(walk, COUNTS, queue="training")
    wait_for_status(walk, task, "in_progress")
    walk.do("ansible-playbook gpufleet.clearml.rollout")
    assert walk.versions() == {"0.2.0"}
    walk.do("ansible-playbook gpufleet.clearml.rollout")
    assert walk.versions() == {before}
    for block in _blocks_of_this_test(ROOT / "README.md"):
        told = walk.run(*block.commands)
        recaps = re.findall(r"(?m)^(\w+) +: ok=.*$", told)
        assert {"clearml", "gpu01", "gpu02"} <= set(recaps)
        assert "changed=0" in told
        assert not re.search(r"changed=[1-9]", told), told
    for host in ("gpu01", "gpu02"):
        walk.hosts[host].run("sh", "-c", "for agent in /var/lib/clearml-agent/tmp/*; do touch $agent/go; done")
    wait_for_status(walk, task, "completed")
    ticks = [line for line in console_of(walk, task, level="DEBUG") if line.startswith("tick")]
    assert ticks == [f"tick {number}" for number in range(len(ticks))]


def drain(walk: Walk) -> None:
    block = walk.blocks[0]
    assert [command.split()[1].rpartition(".")[2] for command in block.commands] == ["drain", "resume"] * 2
    walk.do("ansible-playbook gpufleet.clearml.drain")
    assert walk.held("gpu01") == walk.held("gpu02") == set()
    assert sorted(walk.workers()) == WORKERS


def hours(walk: Walk) -> None:
    shown = walk.do("ansible-playbook gpufleet.clearml.schedule")
    last = shown[shown.rindex("WORKER") :]
    stands = {"gpu01": r"forced on +\S+ +on, [12]:\d\d:\d\d left", "gpu02": r"(open|closed +\S+)"}
    for worker in WORKERS:
        assert re.search(rf"{worker} +{stands[worker[:5]]} +up 20-08 MON-FRI", last), last
    assert "queue services: force_workers:off, 0 waiting" in last
    shown = walk.do("ansible-playbook gpufleet.clearml.schedule")
    last = shown[shown.rindex("WORKER") :]
    assert all(re.search(rf"{worker} +open\W*$", last, re.MULTILINE) for worker in WORKERS), last
    assert "force_workers" not in last


def back_up_and_restore(walk: Walk) -> None:
    kept = create_script(walk, "print('kept')", queue=None)
    shown = walk.do("ansible clearml")
    assert re.search(r"^\d{4}-\d\d-\d\dT[\d-]+Z$", shown, re.MULTILINE), shown
    lost = create_script(walk, "print('lost')", queue=None)
    walk.do("systemctl stop clearml-apiserver", on="clearml")
    server = walk.hosts["clearml"]
    wait_for(lambda: _answers(walk), seconds=30, what="the server answers")
    found = walk.call("tasks.get_all", id=[kept, lost], only_fields=["id"])["tasks"]
    assert [task["id"] for task in found] == [kept]
    listed = server.run("stat", "-c", "%U %a", "/var/lib/clearml-apiserver/server.db").stdout
    assert listed == "clearml-apiserver 600\n"
    task = create_script(walk, "print('and on')", queue="training")
    wait_for_status(walk, task, "completed")


def _answers(walk: Walk) -> bool:
    try:
        return bool(walk.call("users.get_current_user"))
    except Exception:
        return False


def break_and_repair(walk: Walk) -> None:
    first = walk.hosts["gpu01"]
    set_gpus(first, LOST)
    shown = walk.do("ansible gpu01")
    assert "lost" in shown
    assert set(walk.agents("gpu01")) == {"gpu0", "services"}
    assert walk.held("gpu02") == {"gpu0"}
    shown = walk.run("ansible-playbook gpufleet.clearml.site --limit gpu01", code=2)
    assert "A GPU does not answer" in shown
    assert not re.search(r"changed=[1-9]", shown)
    set_gpus(first, GPUS)
    walk.do("ansible-playbook gpufleet.clearml.site --limit gpu01")
    assert set(walk.agents("gpu01")) == {"gpu0", "gpu1", "services"}
    assert walk.held("gpu02") == set()
    wait_for(lambda: sorted(walk.workers()) == WORKERS, what="all workers are back")


def remove(walk: Walk) -> None:
    walk.do("ansible-playbook gpufleet.clearml.remove")
    assert not walk.hosts["gpu02"].run("ls", "/opt/gpufleet", check=False).stdout
    assert {worker.partition(":")[0] for worker in walk.workers()} == {"gpu01"}
