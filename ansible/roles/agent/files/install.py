"""Installs one release of gpufleet into a folder of its own, or removes old ones. Standard library, Python 3.11.

    python3 - install RELEASE REQUIREMENT WHEELS SHA256  from a folder of wheels; by pip from its index if WHEELS is -
    python3 - prune HOME KEEP             all but the newest KEEP and those in use; prints what was removed

Run by Ansible with this text as standard input. A release without the file `.installed` is half of one, and made anew.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile


def install(release, requirement, wheels, sha256):
    shutil.rmtree(release, ignore_errors=True)
    os.umask(0o022)
    venv.create(release, symlinks=True, with_pip=wheels == "-")
    if wheels == "-":
        run(python_in(release), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
    else:
        with tempfile.TemporaryDirectory() as folder:
            options = ("--quiet", "--offline", "--no-index", "--no-cache", "--no-config", "--find-links", wheels)
            target = ("--compile-bytecode", "--python", python_in(release))
            run(uv_from(wheels, folder), "pip", "install", *options, *target, requirement)
    with open(os.path.join(release, ".installed"), "w") as file:
        file.write(sha256 + "\n")


def python_in(release):
    return os.path.join(release, "bin", "python")


def uv_from(wheels, folder):
    """uv is one of the wheels, and installs the others in a third of pip's time."""
    found = glob.glob(os.path.join(wheels, "uv-*.whl"))
    if not found:
        sys.exit("no wheel of uv in " + wheels)
    with zipfile.ZipFile(found[0]) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/scripts/uv")]
        program = archive.extract(name, folder)
    os.chmod(program, 0o700)
    return program


def run(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(done.stdout.decode(errors="replace")[-3000:])


def prune(home, keep):
    folders = [entry.name for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    names = [name for name in folders if os.path.exists(os.path.join(home, name, ".installed"))]
    current = os.path.basename(os.readlink(os.path.join(home, "current")))
    by_age = sorted(names, key=lambda name: os.path.getmtime(os.path.join(home, name, ".installed")), reverse=True)
    kept = [current, *(name for name in by_age if name != current)][: max(int(keep), 1)]
    for name in by_age:
        if name not in kept and not is_in_use(os.path.join(home, name)):
            shutil.rmtree(os.path.join(home, name))
            print(name)


def is_in_use(release):
    """Whether a process was started from it: an agent, a supervisord, or a task that began before an upgrade."""
    mark = (release + "/bin/").encode()
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                if mark in file.read():
                    return True
        except OSError:  # it has just ended
            continue
    return False


{"install": install, "prune": prune}[sys.argv[1]](*sys.argv[2:])
