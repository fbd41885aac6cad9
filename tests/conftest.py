"""What holds for every test: a home of its own for the session, no settings of the person, nothing left running."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from support.apiserver import ServerProcess

ROOT = Path(__file__).parent.parent

# How long an example takes says nothing on a busy machine. Elsewhere new examples are tried every time; CI repeats the
# same ones, so that a red run is due to the change.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

_home = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew; then read the difference")
    parser.addoption("--all-faults", action="store_true", help="the whole fault suite (`make faults`)")
    parser.addoption("--minutes", default=0.0, type=float, help="how long the soak takes (`make soak`)")
    parser.addoption("--write-docs", action="store_true", help="put the soak's figures into docs/benchmarks.md")
    parser.addoption("--seed-of-faults", default=1, type=int, help="the order of the soak's faults")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module is imported, so that children of any age inherit it."""
    home = Path(tempfile.mkdtemp(prefix="gpufleet-tests-"))
    config.stash[_home] = home
    # Caches of packages stay in the checkout: a fresh one per session would download everything again.
    os.environ.setdefault("UV_CACHE_DIR", str(ROOT / ".cache/uv"))
    os.environ.setdefault("PIP_CACHE_DIR", str(ROOT / ".cache/pip"))
    # pip and uv may reach their index by settings of the person; those are read from here.
    os.environ.setdefault("XDG_CONFIG_HOME", str(Path.home() / ".config"))
    for name in [name for name in os.environ if name.startswith(("CLEARML_", "TRAINS_"))]:
        del os.environ[name]
    os.environ["HOME"] = str(home)
    for role in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{role}_NAME"] = "Tests"
        os.environ[f"GIT_{role}_EMAIL"] = "tests@localhost"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_home], ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server of the module's own, with nothing in it yet."""
    from support.apiserver import ServerProcess

    with ServerProcess() as running:
        yield running


@pytest.fixture
def queue(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    """The name of a queue of the test's own."""
    name = f"queue of {request.node.name}"
    server.new_queue(name)
    return name


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A test that leaves a process behind fails the session; asked after the last fixture has been torn down."""
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=1)
    for child in left:
        with suppress(psutil.NoSuchProcess):
            print(f"\nleft running by a test: {child.pid} {child.cmdline()}")
            child.kill()
    if left and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
