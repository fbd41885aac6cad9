"""Every command in the documentation does what it says, on a checkout that nothing has been done to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support.documents import ROOT, Block, blocks_of, pages

BLOCKS = [block for page in pages() for block in blocks_of(page)]

#: Runs each command, and stops at the first that fails with its text as the last line.
PREAMBLE = """\
set -eE -o pipefail
trap 'printf "failed: %s\\n" "$BASH_COMMAND" >&2' ERR
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The checkout by links, so that what the commands make lands beside it and not in it."""
    for entry in ROOT.iterdir():
        if entry.name not in {".git", ".cache", "demo-state", "build", "fleet"}:
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "HOME": str(home), "PATH": path, "PYTHONPATH": "."}


def run_in_group(script: str, cwd: Path, environment: dict[str, str], *, seconds: float) -> tuple[int, str]:
    """Run a script in a session of its own, and end that session with everything in it."""
    log = cwd / "commands.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            with_group(process.pid, number)
        process.wait()
    return code, log.read_text(errors="replace")


def with_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def blocks_to_run(page: Path) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and not (block.tested_by or block.only_options)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in pages() if blocks_to_run(page)])
def test_commands_of_a_page_work_from_top_to_bottom(
    page: str, checkout: Path, shell_environment: dict[str, str]
) -> None:
    script = PREAMBLE + "\n".join(command for block in blocks_to_run(ROOT / page) for command in block.commands)
    code, output = run_in_group(script, checkout, shell_environment, seconds=180)
    assert code == 0, output


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.tested_by])
def test_a_block_that_is_said_to_be_tested_elsewhere_is(block: Block) -> None:
    tester = ROOT / block.tested_by
    assert tester.exists()
    for command in block.commands:
        if command.startswith("make "):
            assert " ".join(command.split()[:2]) in re.sub(r'[",]+ ?"?', " ", tester.read_text())


@pytest.mark.parametrize("command", [command for block in BLOCKS if block.only_options for command in block.commands])
def test_options_of_a_command_that_needs_other_hardware_exist(command: str, shell_environment: dict[str, str]) -> None:
    asking = ["bash", "-c", f"{command} --help"]
    done = subprocess.run(asking, env=shell_environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:")
