"""What `agent.runtimes.base` promises, for every runtime that starts real executors."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import is_alive, wait_for

from agent.process.procfs import start_ticks_of
from agent.runtimes.host import HostProcess, HostRuntime

#: Says who it is as an executor does, runs until told to stop, and leaves an outcome.
EXECUTOR = """
import json, os, signal, sys, time
run = sys.argv[1]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
open(os.path.join(run, "launch.json.new"), "w").write(json.dumps({"pid": os.getpid()}))
os.rename(os.path.join(run, "launch.json.new"), os.path.join(run, "launch.json"))
while not stopped and not os.path.exists(os.path.join(run, "end")):
    time.sleep(0.01)
open(os.path.join(run, "outcome.json"), "w").write("{}")
"""


@pytest.fixture
def runtime(tmp_path: Path) -> HostRuntime:
    script = tmp_path / "executor.py"
    script.write_text(EXECUTOR)
    return HostRuntime((sys.executable, str(script)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "t.1"
    directory.mkdir()
    return directory


def test_the_end_of_an_executor_is_noticed_and_its_lock_is_free(runtime: HostRuntime, run: Path) -> None:
    async def scenario() -> None:
        handle = await runtime.launch(run, os.environ)
        assert await runtime.attach(run) is not None
        (run / "end").touch()
        async with asyncio.timeout(10):
            await handle.wait()
        await handle.wait()  # again, at once
        assert await runtime.attach(run) is None

    asyncio.run(scenario())
    assert (run / "outcome.json").exists()


def test_stop_lets_the_executor_write_its_outcome(runtime: HostRuntime, run: Path) -> None:
    async def scenario() -> None:
        handle = await runtime.launch(run, os.environ)
        await asyncio.to_thread(wait_for, (run / "launch.json").exists)
        handle.stop()
        async with asyncio.timeout(10):
            await handle.wait()
        handle.stop()  # of one that is gone: nothing happens

    asyncio.run(scenario())
    assert (run / "outcome.json").exists()


def test_a_cancelled_wait_leaves_the_executor_alone_and_another_process_finds_it(
    runtime: HostRuntime, run: Path
) -> None:
    """What a restart of the daemon is: somebody else's executor, known only by its run directory."""

    async def launch() -> HostProcess:
        handle = await runtime.launch(run, os.environ)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await handle.wait()
        return handle

    async def adopt() -> None:
        handle = await runtime.attach(run)
        assert handle is not None
        (run / "end").touch()
        async with asyncio.timeout(10):
            await handle.wait()

    first = asyncio.run(launch())
    assert is_alive(first.pid)
    asyncio.run(adopt())
    asyncio.run(first.wait())  # the child is ours here, and has to be reaped


def test_kill_ends_the_task_of_an_executor_too(runtime: HostRuntime, run: Path) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as user:
        facts = {"pid": user.pid, "pgid": user.pid, "start_ticks": start_ticks_of(user.pid)}
        (run / "user.json").write_text(json.dumps(facts))

        async def scenario() -> None:
            handle = await runtime.launch(run, os.environ)
            handle.kill()
            async with asyncio.timeout(10):
                await handle.wait()

        asyncio.run(scenario())
        assert user.wait(10) == -signal.SIGKILL


def test_a_pid_that_was_reused_is_not_killed(runtime: HostRuntime, run: Path) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as bystander:
        (run / "user.json").write_text(json.dumps({"pid": bystander.pid, "pgid": bystander.pid, "start_ticks": 1}))

        async def scenario() -> None:
            handle = await runtime.launch(run, os.environ)
            handle.kill()
            await handle.wait()

        asyncio.run(scenario())
        assert bystander.poll() is None
        bystander.kill()
