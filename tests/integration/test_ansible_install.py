"""The two scripts that the role `agent` runs on a host: one look at it, and releases installed and removed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.agent import wait_for
from support.wheels import make_wheel

FILES = Path(__file__).parents[2] / "ansible/roles/agent/files"
INSTALL = (FILES / "install.py").read_text()
LOOK = (FILES / "look.py").read_text()
SECRET = "hunter2-in-the-index"


def run(script: str, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """As Ansible does it: the script is standard input."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    environ = {"PIP_CONFIG_FILE": "/dev/null", **environ}
    command = ["/usr/bin/python3", "-", *map(str, words)]
    return subprocess.run(command, input=script, env=clean | environ, capture_output=True, text=True, check=False)


def look(home: Path, *, url: str = "", release: str = "none", python: str = "python3") -> dict[str, Any]:
    done = run(LOOK, home, python, url, home / release)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def installed(release: Path) -> str:
    done = subprocess.run([release / "bin/tells"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make wheelhouse` makes it: a product that needs another package, in two versions, and uv."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "needed", "1.0")
    for version in ("1.0", "2.0"):
        text = f"import needed\n\n\ndef main():\n    print({version!r}, needed.version)\n"
        make_wheel(
            folder,
            "product",
            version,
            files={"product.py": text},
            requires=["needed"],
            scripts={"tells": "product:main"},
        )
    with zipfile.ZipFile(folder / "uv-1.0-py3-none-any.whl", "w") as archive:
        archive.write(Path(sys.executable).with_name("uv"), "uv-1.0.data/scripts/uv")
    return folder


@contextmanager
def index_of(wheels: Path) -> Iterator[str]:
    """A package index (PEP 503) of these wheels on loopback."""
    root = wheels.parent / "index"
    for name in ("needed", "product"):
        (root / "simple" / name).mkdir(parents=True, exist_ok=True)
        links = []
        for wheel in wheels.glob(f"{name}-*.whl"):
            (root / "simple" / name / wheel.name).write_bytes(wheel.read_bytes())
            links.append(f'<a href="{wheel.name}">{wheel.name}</a>')
        (root / "simple" / name / "index.html").write_text("\n".join(links))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://token:{SECRET}@127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_release_is_installed_from_a_folder_of_wheels_and_nothing_else(tmp_path: Path, wheels: Path) -> None:
    release = tmp_path / "1.0"
    # nobody listens there: whoever asked an index would fail
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "HOME": str(tmp_path / "home")}
    done = run(INSTALL, "install", release, "product==1.0", wheels, "abc123", **nowhere)
    assert done.returncode == 0, done.stderr
    assert installed(release) == "1.0 1.0"
    assert look(tmp_path, release="1.0") | {"free_mib": 0, "systemd": 0} == {
        "python": [*sys.version_info[:2]],
        "git": True,
        "systemd": 0,
        "free_mib": 0,
        "server": "",
        "releases": ["1.0"],
        "current": "",
        "wheel": "abc123",
    }
    assert not (tmp_path / "home").exists()  # no cache is left behind
    assert not list(release.rglob("uv-1.0*"))


def test_a_release_is_installed_from_an_index_whose_token_is_told_to_nobody(tmp_path: Path, wheels: Path) -> None:
    with index_of(wheels) as url:
        done = run(INSTALL, "install", tmp_path / "2.0", "product==2.0", "-", "-", PIP_INDEX_URL=url)
        assert done.returncode == 0, done.stderr
        assert installed(tmp_path / "2.0") == "2.0 1.0"
        failed = run(INSTALL, "install", tmp_path / "3.0", "product==3.0", "-", "-", PIP_INDEX_URL=url)
    assert failed.returncode == 1
    assert "No matching distribution found for product==3.0" in failed.stderr
    assert SECRET not in failed.stdout + failed.stderr
    assert look(tmp_path)["releases"] == ["2.0"]


def test_half_a_release_is_made_anew(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "1.0/bin").mkdir(parents=True)
    (tmp_path / "1.0/bin/tells").write_text("half")
    assert look(tmp_path)["releases"] == []
    assert run(INSTALL, "install", tmp_path / "1.0", "product==1.0", wheels, "x").returncode == 0
    assert installed(tmp_path / "1.0") == "1.0 1.0"


def test_a_wheel_that_is_missing_is_named(tmp_path: Path, wheels: Path) -> None:
    done = run(INSTALL, "install", tmp_path / "9.0", "product==9.0", wheels, "x")
    assert done.returncode == 1
    assert "product==9.0" in done.stderr
    done = run(INSTALL, "install", tmp_path / "9.0", "product==9.0", tmp_path / "empty", "x")
    assert (done.returncode, done.stderr.strip()) == (1, f"no wheel of uv in {tmp_path / 'empty'}")


def test_old_releases_go_but_the_one_in_use_and_the_last_ones_and_those_of_tasks_stay(tmp_path: Path) -> None:
    for age, version in enumerate(("1.0", "2.0", "3.0", "4.0", "5.0")):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / ".installed").write_text("x\n")
        os.utime(tmp_path / version / ".installed", (1000 + age, 1000 + age))
    (tmp_path / "half").mkdir()
    (tmp_path / "current").symlink_to("3.0")
    (tmp_path / "1.0/bin/python").symlink_to("/usr/bin/python3")
    task = subprocess.Popen([tmp_path / "1.0/bin/python", "-c", "import time; time.sleep(60)"])
    try:
        wait_for(lambda: b"1.0/bin" in Path(f"/proc/{task.pid}/cmdline").read_bytes(), what="the task has begun")
        done = run(INSTALL, "prune", tmp_path, "2")
        assert (done.returncode, sorted(done.stdout.split()), done.stderr) == (0, ["2.0", "4.0"], "")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0", "3.0", "5.0", "current", "half"]
        assert run(INSTALL, "prune", tmp_path, "2").stdout == ""
    finally:
        task.kill()
        task.wait()
    assert run(INSTALL, "prune", tmp_path, "1").stdout.split() == ["5.0", "1.0"]
    assert look(tmp_path)["current"] == "3.0"


def test_a_server_that_cannot_be_reached_is_told_with_the_reason(tmp_path: Path) -> None:
    began = time.monotonic()
    assert "refused" in look(tmp_path, url="http://127.0.0.1:9")["server"]
    assert look(tmp_path, url="no url")["server"] == "unknown url type: 'no url/debug.ping'"
    assert time.monotonic() - began < 5
    assert look(tmp_path, python="python0.9")["python"] == []
