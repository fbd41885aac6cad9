"""`gpufleet.clearml.site` on booted hosts: from nothing, and again with nothing to change, with one host and more.

Each host has two GPUs with an agent each; the server runs beside them. Hosts and control node share the two cores, so
what grows with the hosts is the work of all of them: on real hosts only the control node's part does. Forks and
pipelining are what a control node can set; the last two rows take one of them away. Needs root, as booted hosts do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contestants import ours
from benchmarks.figures.base import Bench, Row
from demo.server import program

ROOT = Path(__file__).parents[2]
SIZES = (1, 2, 4, 8)
FIRST_RUNS = 3  # a run from nothing takes hosts that have never been used
TOPOLOGY = {"defaults": {"create_queue": True}, "agents": [{"gpu": {"index": "0-1"}, "queues": ["training"]}]}
GPUS = "small-host.conf"


def measure(bench: Bench) -> list[Row]:
    first = {
        size: Row(title=_title(size, "from nothing"), unit="s", limit=limit) for size, limit in ((1, 60), (4, 120))
    }
    again = {
        size: Row(title=_title(size, "nothing to change"), unit="s", limit=limit) for size, limit in ((1, 15), (4, 30))
    }
    again[4].grows = "Ansible site with nothing to change, hosts"
    one_fork = Row(title=_title(4, "nothing to change, one host after the other (forks=1)"), unit="s", limit=60)
    plain = Row(title=_title(4, "nothing to change, without pipelining"), unit="s", limit=60)
    wheelhouse = bench.bed.folder / "wheelhouse"
    subprocess.run([ROOT / "tools/wheelhouse.sh", wheelhouse], check=True, stderr=subprocess.DEVNULL)
    for size in SIZES:
        for run in range(min(bench.runs, FIRST_RUNS) if size in first else 1):
            with _inventory(bench.bed.folder, size, wheelhouse) as inventory:
                seconds = _site(inventory)
                if size in first:
                    first[size].add(ours(), seconds)
                if run == 0:
                    values = [_site(inventory, nothing_to_change=True) for _ in range(bench.runs)]
                    again[4].growth[size] = sorted(values)[len(values) // 2]
                    if size in again:
                        again[size].values["ours"] += values
                if run == 0 and size == 4:
                    for _ in range(bench.runs):
                        one_fork.add(ours(), _site(inventory, nothing_to_change=True, ANSIBLE_FORKS="1"))
                        plain.add(ours(), _site(inventory, nothing_to_change=True, ANSIBLE_PIPELINING="false"))
            bench.say(f"{size} hosts: from nothing {seconds:.0f} s, nothing to change {again[4].growth[size]:.0f} s")
    return [first[1], first[4], again[1], again[4], one_fork, plain]


def _title(hosts: int, what: str) -> str:
    return f"Ansible site, {hosts} host{'s' if hosts > 1 else ''}, {what}"


@contextmanager
def _inventory(folder: Path, size: int, wheelhouse: Path) -> Iterator[Path]:
    """Fresh hosts with GPUs and a server, and an inventory of them."""
    for name in ("tests", "molecule"):
        if str(ROOT / name) not in sys.path:
            sys.path.append(str(ROOT / name))
    from support.fake_nvml import CONFIGS
    from support.hosts import OPERATOR, host_network, install_gpus

    key = folder / "operator"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with host_network() as network, network.server() as server, ExitStack() as end, ThreadPoolExecutor(size) as threads:

        def boot(number: int) -> Any:
            host = end.enter_context(network.boot(f"gpu{number}", installed=False))
            host.allow_ssh(key.with_suffix(".pub").read_text())
            install_gpus(host, CONFIGS / GPUS)
            return host

        hosts = list(threads.map(boot, range(1, size + 1)))
        conf = server.conf_path.read_text()
        api, access_key, secret_key = (
            re.findall(rf'{name}: "([^"]+)"', conf)[0] for name in ("api_server", "access_key", "secret_key")
        )
        variables = {
            "ansible_user": OPERATOR,
            "ansible_ssh_private_key_file": str(key),
            "ansible_python_interpreter": "/usr/bin/python3",
            "agent_wheelhouse": str(wheelhouse),
            "agent_topology": TOPOLOGY,
            "agent_api_server": api,
            "agent_files_server": api,
            "agent_access_key": access_key,
            "agent_secret_key": secret_key,
        }
        inventory = folder / "inventory.json"
        names = {host.name: {"ansible_host": host.address} for host in hosts}
        inventory.write_text(json.dumps({"all": {"vars": variables, "children": {"gpu_hosts": {"hosts": names}}}}))
        inventory.chmod(0o600)
        yield inventory


def _site(inventory: Path, *, nothing_to_change: bool = False, **settings: str) -> float:
    """Seconds of one run of the playbook. Raises if a host failed, or changed where it should not."""
    sys.path.append(str(ROOT / "molecule"))
    import run as molecule_run  # type: ignore[import-not-found]

    molecule_run.link_collection()
    environ: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(molecule_run.CACHE / "collections"),
        "ANSIBLE_HOME": str(inventory.parent / "ansible"),
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(inventory.parent / "cp"),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_FORKS": "10",
        "ANSIBLE_NOCOLOR": "1",
        **settings,
    }
    words: Sequence[str | Path] = [program("ansible-playbook"), "-i", inventory, "gpufleet.clearml.site"]
    began = time.perf_counter()
    done = subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    recap = done.stdout.partition("PLAY RECAP")[2]
    if done.returncode or (nothing_to_change and re.search(r"changed=[1-9]", recap)):
        raise RuntimeError(
            f"ansible-playbook ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
        )
    return seconds
