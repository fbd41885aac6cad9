"""One host: its life (boot, reboot, crash, power off) and what tests do with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from support.agent import wait_for
from support.hosts.machine import (
    REGISTRY,
    Session,
    command,
    locked,
    make_cgroup,
    mounts_below,
    remove_cgroups,
    remove_links,
)
from support.hosts.rootfs import INIT_PATH

Init = Literal["systemd", "plain"]
Mode = Literal["unified", "hybrid"]
#: What this machine can boot; the file is there where cgroup2 is all there is.
MODES: tuple[Mode, ...] = ("unified",) if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ("unified", "hybrid")

BOOT_SECONDS = 60.0
OFF_SECONDS = 30.0
LOOKS, LOOK_SECONDS = 10, 0.05
#: Who administers a host over ssh, as a person with sudo and without a password.
OPERATOR = "operator"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: 133 is how nspawn ends when the host rebooted itself; everything else is the end.
LAUNCHER = """
for cgroup in $CGROUPS; do echo $$ >"$cgroup/cgroup.procs"; done
cd /
while :; do
    nsenter --net="$NAMESPACE" systemd-nspawn "$@"
    status=$?
    [ "$status" = 133 ] || exit "$status"
done
"""
#: PID 1 of a host without systemd: as little as a SysV init does. It reaps orphans while it waits. sshd comes last, so
#: that it answers once everything else has been started.
PLAIN_INIT = """\
#!/bin/sh
trap 'kill -TERM -1; sleep 0.2; exit 0' TERM
systemd-tmpfiles --create --remove --boot 2>/dev/null
rm -f /run/nologin  # which says that systemd has not finished booting
mount -a
for script in /etc/rc2.d/S*; do
    case $script in
    *ssh | *dbus) ;;
    *) "$script" start ;;
    esac
done
[ ! -x /etc/rc.local ] || /etc/rc.local
mkdir -p /run/sshd
/usr/sbin/sshd
while :; do
    sleep infinity &
    wait
done
"""
PLAIN_INIT_PATH = "/sbin/init"


class Host:
    """A booted host. It has a folder for its disk, a network namespace and a control group in each hierarchy."""

    def __init__(
        self,
        name: str,
        *,
        session: Session,
        root_filesystem: Path,
        address: str,
        veth: str,
        mode: Mode,
        init: Init,
        read_only: Mapping[Path, str],
    ) -> None:
        self.name = name
        self.address = address
        self.mode = mode
        self.init = init
        self._session = session
        self._root_filesystem = root_filesystem
        self._veth = veth
        self._read_only = dict(read_only)
        self._namespace = f"{session.label}-{name}"
        self._cgroups = [above / name for above in session.cgroups]
        self._folder = session.folder / name
        self._disk = self._folder / "disk"
        self._console = self._folder / "console.log"
        self._launcher: subprocess.Popen[bytes] | None = None

    # --- life

    def boot(self) -> None:
        """Switch it on and wait until systemd says that everything is up; without systemd, until ssh answers."""
        if not self._folder.exists():
            self._make_disk()
            self._connect()
        for cgroup in self._cgroups:
            make_cgroup(cgroup.parent)
            make_cgroup(cgroup)
        self._launch()
        self._wait_until_up(before=None)

    def reboot(self) -> None:
        """`systemctl reboot`: what runs is stopped in order, and the host comes back with its disk."""
        if self.init == "plain":
            self.power_off()
            self.boot()
            return
        before = self.leader()
        self.systemctl("reboot", check=False)  # it may be gone before it can answer
        self._wait_until_up(before=before)

    def power_off(self) -> None:
        """`systemctl poweroff`; `boot` switches it on again."""
        if self.init == "plain":
            os.kill(self.leader(), signal.SIGTERM)
        else:
            self.systemctl("poweroff", check=False)
        self._wait_until_off()

    def crash(self) -> None:
        """As if the power had failed: nothing is stopped in order. The disk stays; `boot` switches it on again."""
        os.kill(self.leader(), signal.SIGKILL)
        self._wait_until_off()

    def remove(self) -> None:
        """End it, in whatever state it is, and remove all of it."""
        remove_cgroups(self._cgroups)
        if self._launcher is not None:
            self._launcher.wait(OFF_SECONDS)
        remove_links(self._veth)
        if (Path("/run/netns") / self._namespace).exists():
            command("ip", "netns", "delete", self._namespace)
        for point in mounts_below(self._folder):
            command("umount", str(point))
        shutil.rmtree(self._folder, ignore_errors=True)

    def leader(self) -> int:
        """Its PID 1, as this machine counts."""
        for _ in range(LOOKS):  # one look may miss it: nspawn gives it another parent while it boots
            if (found := self._find_leader()) is not None:
                return found
            time.sleep(LOOK_SECONDS)
        raise AssertionError(f"{self.name} is not running; its console:\n{self.console()}")

    def console(self) -> str:
        """What it has written to its console since it was made."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def _make_disk(self) -> None:
        for folder in (self._disk, self._folder / "upper", self._folder / "work"):
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # one of them is its /, for all of its users, whatever our umask is
        layers = f"lowerdir={self._root_filesystem},upperdir={self._folder / 'upper'},workdir={self._folder / 'work'}"
        command("mount", "-t", "overlay", self._namespace, "-o", layers, str(self._disk))
        (self._disk / "etc/hostname").write_text(f"{self.name}\n")
        (self._disk / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (self._disk / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")  # else the first boot enables units
        if self.init == "plain":
            self._take_systemd_away()

    def _take_systemd_away(self) -> None:
        """What tells programs that a host is run by systemd. Its helpers that work without it may stay."""
        for place in ("bin/systemctl", "bin/journalctl", "sbin/init"):
            (self._disk / "usr" / place).unlink()
        init = self._disk / "usr" / PLAIN_INIT_PATH.lstrip("/")
        init.write_text(PLAIN_INIT)
        init.chmod(0o755)

    def _connect(self) -> None:
        inside = ("ip", "-n", self._namespace)
        with locked(REGISTRY / "netns"):  # two at once may both make /run/netns a mount point, and one name is lost
            command("ip", "netns", "add", self._namespace)
        command("ip", "link", "add", self._veth, "type", "veth", "peer", "name", "host0", "netns", self._namespace)
        command("ip", "link", "set", self._veth, "master", self._session.label, "up")
        command(*inside, "link", "set", "lo", "up")
        command(*inside, "link", "set", "host0", "up")
        command(*inside, "address", "add", f"{self.address}/24", "dev", "host0")

    def _launch(self) -> None:
        options = [
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--machine={self.name}",
            f"--directory={self._disk}",
            "--resolv-conf=off",
            "--console=pipe",
            "--kill-signal=SIGRTMIN+3",
            "--capability=all",
            "--system-call-filter=bpf keyctl add_key perf_event_open",
            *(f"--bind-ro={here}:{there}" for here, there in self._read_only.items()),
        ]
        environ = {
            "PATH": PATH,
            "CGROUPS": " ".join(map(str, self._cgroups)),
            "NAMESPACE": f"/run/netns/{self._namespace}",
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1" if self.mode == "unified" else "0",
        }
        with self._console.open("ab") as console:
            self._launcher = subprocess.Popen(
                ["sh", "-c", LAUNCHER, "launcher", *options, PLAIN_INIT_PATH if self.init == "plain" else INIT_PATH],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_up(self, *, before: int | None) -> None:
        state = ""

        def settled() -> bool:
            nonlocal state
            assert self._launcher is not None
            if self._launcher.poll() is not None:
                raise AssertionError(f"{self.name} did not boot:\n{self.console()}")
            if self._find_leader() in (None, before):
                return False
            if self.init == "plain":
                return self.answers_ssh()
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state in ("running", "degraded")

        try:
            wait_for(settled, seconds=BOOT_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{self.name} is {state or 'not up'}:\n{self.console()}") from error
        if state == "degraded":
            failed = self.systemctl("--failed", "--no-legend").stdout
            raise AssertionError(f"{self.name} is up, but:\n{failed}")

    def _wait_until_off(self) -> None:
        assert self._launcher is not None
        self._launcher.wait(OFF_SECONDS)
        self._launcher = None
        remove_cgroups(self._cgroups)

    def _find_leader(self) -> int | None:
        """The process below ours that is number 1 in a namespace of its own."""
        if self._launcher is None:
            return None
        try:
            below = psutil.Process(self._launcher.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return None
        for each in below:
            with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended is not the one
                numbers = _numbers_of(each.pid)
                if len(numbers) > 1 and numbers[-1] == "1":
                    return each.pid
        return None

    # --- ssh

    def allow_ssh(self, public_key: str) -> None:
        """Let OPERATOR log in with this key from now on, after a reboot too, and become root with sudo."""
        self.run("useradd", "--create-home", "--shell=/bin/bash", f"--gid={OPERATOR}", OPERATOR)  # Debian has the group
        home = f"/home/{OPERATOR}"
        self.write(f"{home}/.ssh/authorized_keys", f"{public_key.strip()}\n", mode=0o600)
        self.run("chown", "-R", f"{OPERATOR}:{OPERATOR}", home)
        self.write(f"/etc/sudoers.d/{OPERATOR}", f"{OPERATOR} ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
        if self.init == "systemd":
            self.systemctl("enable", "--quiet", "--now", "ssh.service")
        self.wait_for(self.answers_ssh, what="sshd answers")

    def answers_ssh(self) -> bool:
        """Whether sshd greets this machine."""
        with suppress(OSError), socket.create_connection((self.address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    # --- commands

    def run(
        self,
        *words: str | Path,
        check: bool = True,
        stdin: str = "",
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host, as root or as `user`, outside of every unit.

        With `check` a status other than 0 is an AssertionError that says what the command said.
        """
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        done = subprocess.run(
            [*self._inside(env or {}), *as_user, *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise AssertionError(f"{self.name}: {shlex.join(map(str, words))}: exit {done.returncode}: {said}")
        return done

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """The same for a command that is not waited for; what it says comes through pipes."""
        return subprocess.Popen(
            [*self._inside({}), *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _inside(self, env: Mapping[str, str]) -> list[str]:
        environ = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **env}
        return [
            "nsenter",
            f"--target={self.leader()}",
            *("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--wdns=/"),
            *("--", "env", "-i", *(f"{name}={value}" for name, value in environ.items())),
        ]

    def systemctl(self, *words: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`systemctl ...`"""
        return self.run("systemctl", *words, check=check, timeout=timeout)

    def property(self, unit: str, name: str) -> str:
        """What `systemctl show` says of one property."""
        return self.systemctl("show", unit, f"--property={name}", "--value").stdout.strip()

    def wait_for_state(self, unit: str, *wanted: str, seconds: float = 30.0) -> None:
        """Wait until a unit is `active`, `inactive`, `failed`, ...; fails with its status and journal."""

        def reached() -> bool:
            return self.property(unit, "ActiveState") in wanted

        try:
            wait_for(reached, seconds=seconds)
        except AssertionError as error:
            status = self.systemctl("status", "--no-pager", "--lines=50", unit, check=False).stdout
            raise AssertionError(f"{unit} is not {' or '.join(wanted)} within {seconds} s:\n{status}") from error

    def wait_for(self, condition: Callable[[], Any], *, seconds: float = 20.0, what: str = "") -> Any:
        """What `condition()` gives once that is true; fails after the deadline."""
        return wait_for(condition, seconds=seconds, what=f"{self.name}: {what or condition}")

    def journal(self, unit: str) -> str:
        """The messages of a unit, of earlier boots too."""
        return "".join(f"{entry.get('MESSAGE', '')}\n" for entry in self.journal_entries(unit))

    def journal_entries(self, unit: str) -> list[dict[str, Any]]:
        """The same with all fields (`MESSAGE`, `PRIORITY`, `_PID`, ... and those that the program gave)."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--quiet", "--no-pager", "--output=json", f"--unit={unit}").stdout.splitlines()
        return [json.loads(line) for line in lines]

    # --- files

    def path(self, place: str | Path) -> Path:
        """Where this machine sees a file of the host: all mounts included while it runs, else its disk.

        Absolute symbolic links of the host lead to this machine's files: follow them with `run` instead.
        """
        leader = self._find_leader()
        root = Path(f"/proc/{leader}/root") if leader else self._disk
        return root / str(place).lstrip("/")

    def write(self, place: str | Path, text: str | bytes, *, mode: int = 0o644) -> None:
        """Put a file there, owned by root, whole or not at all; folders are made as needed."""
        target = self.path(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.new")
        fresh.write_bytes(text.encode() if isinstance(text, str) else text)
        fresh.chmod(mode)
        fresh.replace(target)

    def push(self, source: Path, place: str | Path) -> None:
        """Copy a file or a whole folder of this machine to this place, owned by root; modes stay as they are."""
        if source.is_dir():
            for each in sorted(source.rglob("*")):
                if each.is_file():
                    self.push(each, Path(place) / each.relative_to(source))
        else:
            self.write(place, source.read_bytes(), mode=source.stat().st_mode & 0o7777)

    def read(self, place: str | Path) -> str:
        """The text of a file."""
        return self.path(place).read_text()


def _numbers_of(pid: int) -> list[str]:
    """A process's numbers, this machine's first, then its own namespace's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return []
