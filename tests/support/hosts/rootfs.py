"""The root filesystem that all hosts share, built once from the Debian sources that this machine's apt uses."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from support.hosts.machine import command, locked

#: Where root filesystems and the hosts' disks are. overlayfs refuses some filesystems (another overlay, network disks):
#: then the variable names a folder on one that it takes.
CACHE_VARIABLE = "GPUFLEET_TEST_HOSTS"
_ROOT = Path(__file__).parents[3]

#: Without python3-venv on purpose: there are such hosts, and what installs the product has to cope.
PACKAGES = (
    "apt",
    "ca-certificates",
    "dbus",
    "git",
    "iproute2",
    "libnss-systemd",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)
#: What nobody reads in a test.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
#: nspawn mounts cgroup v1 hierarchies read-only, and then no limit takes effect; a real machine's PID 1 may write them.
INIT = """\
#!/bin/sh
for hierarchy in /sys/fs/cgroup/*/; do
    mount -o remount,bind,rw,nosuid,nodev,noexec "$hierarchy" 2>/dev/null
done
exec /lib/systemd/systemd "$@"
"""
INIT_PATH = "/sbin/test-host-init"


def cache() -> Path:
    """The folder for everything that hosts need on a disk."""
    return Path(os.environ.get(CACHE_VARIABLE) or _ROOT / ".cache" / "hosts")


def root_filesystem() -> Path:
    """The folder to use as the lower layer of an overlay; built if this list of packages was not built before."""
    recipe = Path(__file__).read_bytes() + platform.freedesktop_os_release()["VERSION_CODENAME"].encode()
    path = cache() / f"rootfs-{hashlib.sha256(recipe).hexdigest()[:12]}"
    with locked(path):
        if not path.exists():
            unfinished = path.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            _build(unfinished)
            unfinished.rename(path)
            _remove_older_than(path)
    return path


def _build(folder: Path) -> None:
    words = [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        platform.freedesktop_os_release()["VERSION_CODENAME"],
        str(folder),
        "-",
    ]
    done = subprocess.run(words, input=_debian_sources(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap could not build a root filesystem: {done.stderr[-3000:]}")
    init = folder / INIT_PATH.lstrip("/")
    init.write_text(INIT)
    init.chmod(0o755)
    (folder / "opt/gpufleet").mkdir()
    for link in ("multi-user.target.wants/ssh.service", "sshd.service"):  # only some hosts run it
        (folder / "etc/systemd/system" / link).unlink(missing_ok=True)
    (folder / "var/log/journal").mkdir(exist_ok=True)  # the journal outlives a reboot
    for name in ("etc/resolv.conf", "etc/machine-id"):
        (folder / name).unlink(missing_ok=True)
    for unit in ("systemd-timesyncd.service", "e2scrub_all.timer", "fstrim.timer", "dpkg-db-backup.timer"):
        (folder / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (folder / "etc/systemd/system" / unit).symlink_to("/dev/null")


def _debian_sources() -> str:
    """One line per suite. apt only knows whose an index is once it has it."""
    form = ("--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Origin: Debian")
    if not (lines := command("apt-get", "indextargets", *form)):
        command("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "update")
        lines = command("apt-get", "indextargets", *form)
    if not lines:
        raise RuntimeError("apt has no Debian sources to build a root filesystem from")
    return "".join(sorted(set(lines.splitlines(keepends=True))))


def _remove_older_than(path: Path) -> None:
    """Earlier recipes' results, unless another session's hosts are on one."""
    mounts = Path("/proc/self/mounts").read_text()
    for older in path.parent.glob("rootfs-*"):
        if older.is_dir() and older.suffix != ".new" and older != path and f"lowerdir={older}," not in mounts:
            shutil.rmtree(older, ignore_errors=True)
