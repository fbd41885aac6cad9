"""The package as it would be installed elsewhere: a wheel that has everything in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import wait_until

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).parent / "uv"


@pytest.mark.timeout(180)
def test_installed_package_works_without_the_checkout(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}

    def call(*words: object) -> str:
        command = [str(word) for word in words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    call(UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT)
    call(UV, "pip", "install", "--quiet", "--python", tmp_path / "venv/bin/python", next(tmp_path.glob("*.whl")))
    assert call(tmp_path / "venv/bin/clearml-agent", "--help").startswith("Usage:")

    command = [tmp_path / "venv/bin/clearml-apiserver", "--data", tmp_path / "data", "--port", "0", "--files-port", "0"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        assert wait_until((tmp_path / "data/clearml.conf").exists, seconds=30), (tmp_path / "log").read_text()
        environment["CLEARML_CONFIG_FILE"] = str(tmp_path / "data/clearml.conf")
        assert "agent.state_dir" in call(tmp_path / "venv/bin/clearml-agent", "config")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
