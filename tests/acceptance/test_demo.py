"""`make demo` and `make up`, as somebody with a fresh checkout calls them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.processes import marked, wait_until

ROOT = Path(__file__).parent.parent.parent
DEMO = [sys.executable, "-m", "demo"]

pytestmark = pytest.mark.timeout(300)


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demo in the background, in a session of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


def files_below(folder: Path) -> set[Path]:
    """What there is in the checkout besides what Python, the tests and their tools put there themselves."""
    passing = {".venv", ".cache", ".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
    return {path for path in folder.rglob("*") if not passing & set(path.parts)}


def eventually(log: Path, pattern: str, *, seconds: float = 60) -> re.Match[str]:
    """Wait until the log says something."""
    found: list[re.Match[str]] = []

    def said() -> bool:
        if match := re.search(pattern, log.read_text(errors="replace"), re.MULTILINE):
            found.append(match)
        return bool(found)

    assert wait_until(said, seconds=seconds), log.read_text(errors="replace")
    return found[0]


def test_make_demo_does_the_main_job_within_a_minute_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state with blanks"
    before, home = files_below(ROOT), files_below(Path(os.environ["HOME"]))
    began = time.monotonic()
    command = ["make", "demo", f"ARGS=--state {shlex.quote(str(state))}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert time.monotonic() - began < 60
    for task, queue, status in (
        ("repository", "training", "completed"),
        ("script", "quick", "completed"),
        ("failing", "quick", "failed"),
    ):
        assert re.search(rf"^{task} +{queue} +demo:\S+ +{status} +\d+\.\d\d s +\d+\.\d\d s$", done.stdout, re.MULTILINE)
    assert "repository | trained 1,234,567 parameters from a change that was never committed" in done.stdout
    assert marked(str(state / "demo-1")) == []
    assert files_below(ROOT) == before
    assert files_below(Path(os.environ["HOME"])) == home


def test_two_demos_at_once_do_not_meet(tmp_path: Path) -> None:
    command = [*DEMO, "run", "--json", "--state", str(tmp_path)]
    with (
        started(command, tmp_path / "one.log") as one,
        started(command, tmp_path / "two.log") as two,
    ):
        assert (one.wait(200), two.wait(200)) == (0, 0)
    for name in ("one.log", "two.log"):
        assert json.loads((tmp_path / name).read_text())["ok"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "log"
    with started([*DEMO, "run", "--state", str(tmp_path)], log) as process:
        eventually(log, r"^agent ")
        process.send_signal(number)
        assert process.wait(60) == 130
    assert marked(str(tmp_path / "demo-1")) == []


def test_a_killed_demo_takes_its_children_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started([*DEMO, "run", "--state", str(tmp_path)], log) as process:
        eventually(log, r"^agent ")
        process.kill()
        process.wait()
        gone: Callable[[], bool] = lambda: marked(str(tmp_path / "demo-1")) == []  # noqa: E731
        assert wait_until(gone, seconds=60)


def test_make_up_stays_and_its_three_commands_work_when_pasted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(["make", "up", f"ARGS=--state {tmp_path}"], log) as process:
        eventually(log, r"^Ctrl-C ends it all")
        text = log.read_text()
        pasted = re.search(r"^  cd .*\n  export .*(?:\n  \S.*){3}$", text, re.MULTILINE)
        assert pasted, text
        done = subprocess.run(
            ["bash", "-e", "-c", pasted[0]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "demo:" in done.stdout  # list
        assert done.stdout.count("hello from") >= 2  # task, execute
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait(60)
    assert "shutting down" in log.read_text()
    assert marked(str(tmp_path / "up-1")) == []
