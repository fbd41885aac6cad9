"""The hosts of a molecule scenario: booted ones (tests/support/hosts), held by a process of their own.

    python molecule/hosts.py up --state DIR --platforms '[{"name": "gpu1", "gpus": "8xh100.conf"}, {"name": "server"}]'
    python molecule/hosts.py exec --state DIR gpu1 -- nvidia-smi
    python molecule/hosts.py down --state DIR

molecule creates and destroys with two runs of ansible-playbook, and a host lives no longer than the process that booted
it. So `up` leaves a holder behind, which ends with `down`, or by itself when its lifetime is over. What the two know of
each other is in DIR:

    hosts.pid     the holder: process id and when that process started, so that no other one is ever signalled
    platforms     what the holder was asked for
    hosts.json    written once every host can be reached: [{name, address, user, port, identity_file}]
    hosts.log     what the holder said
    key, key.pub  of the operator, for these hosts only
    cp/           connections that ansible keeps open

A platform has a `name`, and may have `gpus` (a file of tests/support/fake_nvml/configs) and `init` ("systemd", or
"plain" for a host without it); molecule's own keys (`groups`) are ignored. The product is not installed on the hosts.
They reach each other by name, and nothing outside of their bridge.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.fake_nvml import CONFIGS  # noqa: E402  # tests/ is no package that could be installed
from support.hosts import OPERATOR, Host, Init, Network, host_network, install_gpus, machine  # noqa: E402
from support.hosts.rootfs import cache  # noqa: E402

Platform = dict[str, Any]

UP_SECONDS = 600.0  # the first time of all a root filesystem is built
DOWN_SECONDS = 60.0
LIFETIME_SECONDS = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description="The hosts of a molecule scenario.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "hold", "down", "exec"):
        command = commands.add_parser(name)
        command.add_argument("--state", type=lambda text: Path(text).absolute(), required=True, metavar="DIR")
        if name in ("up", "hold"):
            command.add_argument("--platforms", type=json.loads, required=True, metavar="JSON")
            command.add_argument("--lifetime", type=float, default=LIFETIME_SECONDS, metavar="SECONDS")
        if name == "exec":
            command.add_argument("name")
            command.add_argument("words", nargs="*")
    asked = parser.parse_args()
    match asked.command:
        case "up":
            print(json.dumps(up(asked.state, asked.platforms, lifetime=asked.lifetime), indent=2))
        case "hold":
            hold(asked.state, asked.platforms, lifetime=asked.lifetime)
        case "down":
            down(asked.state)
        case "exec":
            execute(asked.state, asked.name, asked.words)


def up(state: Path, platforms: Sequence[Platform], *, lifetime: float) -> list[dict[str, Any]]:
    """The hosts and how to reach them. Asked again it says the same, and boots nothing."""
    if os.geteuid():
        sys.exit("hosts are booted by root: run this as root, in a container or a virtual machine if need be")
    for platform in platforms:
        if (gpus := platform.get("gpus")) and not (CONFIGS / gpus).is_file():
            sys.exit(f"{platform['name']}: no description of GPUs {gpus!r} in {CONFIGS}")
        if (init := platform.get("init", "systemd")) not in get_args(Init):
            sys.exit(f"{platform['name']}: init is {' or '.join(get_args(Init))}, not {init!r}")
    if Holder.of(state) is None:
        _start_holder(state, platforms, lifetime=lifetime)
    elif json.loads((state / "platforms").read_text()) != platforms:
        sys.exit(f"{state} has other hosts up: end them with `down` first")
    deadline = time.monotonic() + UP_SECONDS
    while not (state / "hosts.json").exists():
        if Holder.of(state) is None:
            said = (state / "hosts.log").read_text().strip()
            down(state)
            sys.exit(f"the hosts did not come up:\n{said[-8000:]}")
        if time.monotonic() > deadline:
            sys.exit(f"the hosts are not up within {UP_SECONDS:.0f} s: {state / 'hosts.log'}")
        time.sleep(0.05)
    hosts: list[dict[str, Any]] = json.loads((state / "hosts.json").read_text())
    return hosts


def down(state: Path) -> None:
    """End the hosts and leave nothing of them on this machine."""
    for socket in (state / "cp").glob("*"):  # the next hosts have the same addresses: nobody may talk to dead ones
        words = ["ssh", "-O", "exit", "-S", str(socket), "host"]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if (holder := Holder.of(state)) and not holder.end():
        raise RuntimeError(f"process {holder.pid} does not end: {state / 'hosts.log'}")
    if (state / "hosts.pid").exists() and not os.geteuid():  # a holder that was killed could not clear up
        with machine.session(cache()):
            pass
    shutil.rmtree(state / "cp", ignore_errors=True)
    for name in ("hosts.json", "platforms", "key", "key.pub", "hosts.pid"):
        (state / name).unlink(missing_ok=True)


def execute(state: Path, name: str, words: Sequence[str]) -> NoReturn:
    """The words as root in that host, or a shell there; ends as they do."""
    hosts = json.loads((state / "hosts.json").read_text())
    host = next((host for host in hosts if host["name"] == name), None)
    if host is None:
        sys.exit(f"no host {name!r} here, but {', '.join(host['name'] for host in hosts)}")
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes")
    ssh = ["ssh", "-i", host["identity_file"], *(word for option in options for word in ("-o", option))]
    terminal = ["-t"] if sys.stdin.isatty() else []
    remote = shlex.join(["sudo", *(words or ["-i"])])
    sys.exit(subprocess.run([*ssh, *terminal, f"{host['user']}@{host['address']}", remote], check=False).returncode)


# --- the process that holds them


def hold(state: Path, platforms: Sequence[Platform], *, lifetime: float) -> None:
    """Boot the hosts, say that they are there, and keep them until SIGTERM comes or the time is over."""
    signal.signal(signal.SIGTERM, _leave)
    with booted(platforms, public_key=(state / "key.pub").read_text()) as hosts:
        known = [
            {
                "name": host.name,
                "address": host.address,
                "user": OPERATOR,
                "port": 22,
                "identity_file": str(state / "key"),
            }
            for host in hosts
        ]
        fresh = state / "hosts.json.new"
        fresh.write_text(json.dumps(known, indent=2))
        fresh.rename(state / "hosts.json")
        threading.Event().wait(lifetime)
        print(f"nobody ended these hosts within {lifetime:.0f} s", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is clearing up
    sys.exit(0)


@contextmanager
def booted(platforms: Sequence[Platform], *, public_key: str) -> Iterator[list[Host]]:
    """A host per platform, in that order, all booted at once."""
    with host_network() as network, ExitStack() as hosts_end, ThreadPoolExecutor(max(len(platforms), 1)) as threads:

        def boot(platform: Platform) -> Host:
            return hosts_end.enter_context(_boot(network, platform, public_key=public_key))

        hosts = list(threads.map(boot, platforms))
        names = "".join(f"{host.address} {host.name}\n" for host in hosts)
        for host in hosts:
            host.write("/etc/hosts", f"127.0.0.1 localhost\n{names}")
        yield hosts


@contextmanager
def _boot(network: Network, platform: Platform, *, public_key: str) -> Iterator[Host]:
    with network.boot(platform["name"], init=platform.get("init", "systemd"), installed=False) as host:
        host.allow_ssh(public_key)
        if gpus := platform.get("gpus"):
            install_gpus(host, CONFIGS / gpus)
        yield host


# --- how others find that process


class Holder:
    """The process that holds a scenario's hosts, by a handle that can never mean another process."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    @classmethod
    def of(cls, state: Path) -> Holder | None:
        """The one that runs, if it does."""
        try:
            known = json.loads((state / "hosts.pid").read_text())
            handle = os.pidfd_open(known["pid"])
        except (FileNotFoundError, ProcessLookupError):
            return None
        holder = cls(known["pid"], handle)
        if holder.has_ended() or _started(known["pid"]) != known["started"]:
            return None
        return holder

    def has_ended(self, *, seconds: float = 0) -> bool:
        """Whether it has, or does within that time."""
        return bool(select.select([self._handle], [], [], seconds)[0])

    def end(self) -> bool:
        """Ask it to, and in the end make it; whether it has."""
        for number, seconds in ((signal.SIGTERM, DOWN_SECONDS), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)
            if self.has_ended(seconds=seconds):
                return True
        return False

    def __del__(self) -> None:
        os.close(self._handle)


def _start_holder(state: Path, platforms: Sequence[Platform], *, lifetime: float) -> None:
    down(state)
    state.mkdir(parents=True, exist_ok=True)
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "molecule", "-f", str(state / "key")]
    subprocess.run(key, stdin=subprocess.DEVNULL, check=True)
    (state / "platforms").write_text(json.dumps(platforms))
    options = ["--state", str(state), "--platforms", json.dumps(platforms), "--lifetime", str(lifetime)]
    with (state / "hosts.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "hold", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (state / "hosts.pid").write_text(json.dumps({"pid": process.pid, "started": _started(process.pid)}))


def _started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


if __name__ == "__main__":
    main()
