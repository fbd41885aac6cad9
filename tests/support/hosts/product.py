"""This checkout as an operator installs it: `/opt/gpufleet/<version>` with Debian's own Python, and `current`.

Installed once per state of the sources, into a folder that hosts mount read-only. Programs of a virtual environment
name its place in their first line: here that is the place inside the host, where they run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.hosts.machine import locked
from support.hosts.rootfs import cache

PLACE = "/opt/gpufleet"
PRODUCT = f"{PLACE}/current"
PYTHON = "/usr/bin/python3"
_ROOT = Path(__file__).parents[3]
_UNUSED_SECONDS = 3600


def product() -> Path:
    """The folder to mount at /opt/gpufleet."""
    path = cache() / f"product-{_state_of_the_sources()}"
    with locked(cache() / "product"):
        if not path.exists():
            unfinished = path.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            _install(unfinished)
            unfinished.rename(path)
        os.utime(path)
        _remove_unused()
    return path


def _install(folder: Path) -> None:
    version: str = _project_file()["project"]["version"]
    home = folder / version
    _uv("venv", "--python", PYTHON, str(home))
    _uv("build", "--wheel", "--out-dir", str(folder / "wheel"), str(_ROOT))
    wheel = next((folder / "wheel").glob("*.whl"))
    _uv("pip", "install", "--compile-bytecode", "--python", str(home / "bin/python"), str(wheel))
    shutil.rmtree(folder / "wheel")
    _name_the_place_inside(home)
    (folder / "current").symlink_to(version)


def _name_the_place_inside(home: Path) -> None:
    outside, inside = f"#!{home}/bin/".encode(), f"#!{PLACE}/{home.name}/bin/".encode()
    for program in (home / "bin").iterdir():
        if program.is_file() and not program.is_symlink() and (text := program.read_bytes()).startswith(outside):
            program.write_bytes(text.replace(outside, inside, 1))


def _uv(*words: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([str(uv), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"uv {words[0]}: {done.stderr[-3000:]}")


def _state_of_the_sources() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in _sources():
        digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _project_file() -> dict[str, Any]:
    return tomllib.loads((_ROOT / "pyproject.toml").read_text())


def _sources() -> Iterator[Path]:
    """What a wheel is made of."""
    wheel = _project_file()["tool"]["hatch"]["build"]["targets"]["wheel"]
    yield from (_ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))
    for name in (*wheel["packages"], *wheel.get("force-include", {})):
        files = (path for path in (_ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        yield from sorted(files)


def _remove_unused() -> None:
    """Every change of the sources makes another one. One that was asked for of late may be mounted in a host."""
    for old in cache().glob("product-*"):
        if time.time() - old.stat().st_mtime > _UNUSED_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
