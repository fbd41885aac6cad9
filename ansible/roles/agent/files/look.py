"""One look at a host, for all checks before anything is changed: prints a JSON object. Standard library, Python 3.6.

usage: python3 - HOME PYTHON API_URL RELEASE  (run by Ansible with this text as standard input)
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

PING_SECONDS = 10


def output_of(*words):
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return ""


def python_version(name):
    """Its version as a list of two numbers; empty if there is none."""
    program = "import sys; print(*sys.version_info[:2])"
    return [int(number) for number in output_of(name, "-c", program).split()]


def systemd_version():
    """0 where systemd does not run this host."""
    found = re.match(r"systemd (\d+)", output_of("systemctl", "--version"))
    return int(found.group(1)) if found and os.path.isdir("/run/systemd/system") else 0


def free_mib(path):
    """Free space where the path is or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free // 2**20


def ping(url):
    """Why the server cannot be reached; empty if it answers, whatever it answers to somebody without a token."""
    if not url:
        return ""
    try:
        urllib.request.urlopen(url + "/debug.ping", timeout=PING_SECONDS).close()
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else "HTTP %d" % error.code
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def releases(home):
    """Versions that are installed completely."""
    if not os.path.isdir(home):
        return []
    names = [entry.name for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    return sorted(name for name in names if os.path.exists(os.path.join(home, name, ".installed")))


def wheel_of(release):
    """The checksum of the wheel that a release was made of; empty for one that is not there or came from an index."""
    try:
        with open(os.path.join(release, ".installed")) as file:
            return file.read().strip()
    except OSError:
        return ""


def main(home, python, api_url, release):
    current = os.path.join(home, "current")
    print(
        json.dumps(
            {
                "python": python_version(python),
                "git": shutil.which("git") is not None,
                "systemd": systemd_version(),
                "free_mib": min(free_mib(home), free_mib("/var/lib")),
                "server": ping(api_url),
                "releases": releases(home),
                "current": os.readlink(current) if os.path.islink(current) else "",
                "wheel": wheel_of(release),
            }
        )
    )


main(*sys.argv[1:])
