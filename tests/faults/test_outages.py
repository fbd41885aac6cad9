"""The server is away for a minute, comes back with older data, forgets our token, or lives in another time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.agent import create_script, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.clock import Clock
from support.fault_case import LINES, Case
from support.watcher import Watcher

from agent.steps import Step

AWAY_SECONDS = 60.0
#: One of each part of the life of a task; None is an agent that waits for one.
PHASES = (None, Step.CLAIM_WRITTEN, Step.TASK_WRITTEN, Step.CODE_READY, Step.CONSOLE_NOTED, Step.EXIT_WRITTEN)
DAY = 24 * 3600
SLOW = {"pause": 0.2}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server" / "data") as running:
        yield running


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_minute_without_a_server_costs_a_minute_in_every_phase(tmp_path: Path) -> None:
    with ThreadPoolExecutor(len(PHASES)) as pool:
        places = [tmp_path / str(phase) for phase in PHASES]
        for pending in [pool.submit(_minute, place, phase) for place, phase in zip(places, PHASES, strict=True)]:
            pending.result()


def _minute(place: Path, phase: Step | None) -> None:
    place.mkdir()
    with ServerProcess(place / "server" / "data") as server, Watcher() as watcher:
        case = Case(server, place, environ=watcher.environ)
        if phase is None:
            server.call("tasks.dequeue", task=case.task)
            case.start().wait_until_ready()
            server.kill()
        else:
            watcher.at(phase, lambda _: server.kill())
            case.start()
            watcher.wait(phase, log=case.agent.log)
        try:
            time.sleep(AWAY_SECONDS)  # this is the fault
            server.restart()
            if phase is None:
                server.call("tasks.enqueue", task=case.task, queue=case.queue)
            assert case.settle(seconds=90) == "completed"
            assert len(case.checker.attempts(case.task)) == 1
        finally:
            case.end()


# --- an older backup


def _backup(server: ServerProcess) -> Path:
    """The data as they are now. The server is restarted for it."""
    copy = server.data.parent / "backup"
    server.stop()
    shutil.copytree(server.data, copy)
    server.restart()
    return copy


def _restore(server: ServerProcess, copy: Path) -> None:
    server.kill()
    shutil.rmtree(server.data)
    copy.rename(server.data)
    server.restart()


def test_a_task_that_a_restored_server_does_not_know_is_ended_and_others_run(
    server: ServerProcess, tmp_path: Path
) -> None:
    server.new_queue("a queue of before")
    copy = _backup(server)
    case = Case(server, tmp_path, script=SLOW)
    case.start("a queue of before", case.name)
    try:
        wait_for(lambda: case.checker.attempts(case.task), what="the task begins")
        _restore(server, copy)
        assert case.settle() == "gone"
        wait_for_status(server, create_script(server, "print('on')", queue="a queue of before"), "completed")
    finally:
        case.end()


@pytest.mark.parametrize("step", [Step.CLAIM_WRITTEN, Step.TASK_WRITTEN, Step.CODE_READY, Step.EXIT_WRITTEN])
def test_a_task_that_a_restored_server_has_in_its_queue_is_run_from_there(
    server: ServerProcess, tmp_path: Path, step: Step
) -> None:
    with Watcher() as watcher:
        case = Case(server, tmp_path, environ=watcher.environ)
        copy = _backup(server)
        watcher.at(step, lambda _: _restore(server, copy))
        case.start()
        try:
            watcher.wait(step, log=case.agent.log)
            assert case.settle(excused=frozenset({"earlier consoles"})) == "completed"
            assert len(case.checker.attempts(case.task)) <= 2
        finally:
            case.end()


def test_a_task_that_a_restored_server_has_running_goes_on(server: ServerProcess, tmp_path: Path) -> None:
    case = Case(server, tmp_path, script=SLOW)
    case.start()
    try:
        wait_for(lambda: case.checker.console(case.task), what="the first lines")
        copy = _backup(server)
        before = len(case.checker.console(case.task))
        wait_for(lambda: len(case.checker.console(case.task)) > before, what="lines that the backup has not")
        _restore(server, copy)
        # what the server had acknowledged and has forgotten cannot be known here
        assert case.settle(excused=frozenset({"console"})) == "completed"
        assert [attempt.code for attempt in case.checker.attempts(case.task)] == [0]
        assert case.checker.console(case.task)[-1].endswith(f" {LINES - 1}")
    finally:
        case.end()


# --- clocks, and what depends on them


def test_a_token_that_has_expired_is_renewed_amid_a_task(tmp_path: Path) -> None:
    """The server's clock jumps over the end of all tokens that it has given out."""
    clock = Clock(tmp_path)
    with ServerProcess(tmp_path / "server" / "data", env=clock.environ) as server:
        case = Case(server, tmp_path, script=SLOW)
        case.start()
        try:
            wait_for(lambda: case.checker.console(case.task), what="the first lines")
            clock.ahead(40 * DAY)
            server.forget_tokens()
            assert case.settle() == "completed"
        finally:
            case.end()


@pytest.mark.parametrize("jump", [-DAY, *(pytest.param(jump, marks=pytest.mark.thorough) for jump in (DAY, 400 * DAY))])
@pytest.mark.parametrize("step", [None, Step.CLAIM_WRITTEN, Step.PROCESS_WRITTEN, Step.EXIT_WRITTEN])
def test_a_clock_of_the_host_that_is_set_changes_nothing(
    server: ServerProcess, tmp_path: Path, jump: int, step: Step | None
) -> None:
    clock = Clock(tmp_path)
    with Watcher() as watcher:
        case = Case(server, tmp_path, environ={**watcher.environ, **clock.environ})
        if step is None:
            server.call("tasks.dequeue", task=case.task)
            case.start().wait_until_ready()
            clock.ahead(jump)
            server.call("tasks.enqueue", task=case.task, queue=case.queue)
        else:
            watcher.at(step, lambda _: clock.ahead(jump))
            case.start()
            watcher.wait(step, log=case.agent.log)
        try:
            assert case.settle() == "completed"
            case.agent.kill()
            clock.ahead(0)
            again = create_script(server, case.script, queue=case.name)
            case.agent.restart()
            case.checker.settle([again])
        finally:
            case.end()
