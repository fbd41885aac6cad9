"""Who is meant, what is said of an agent, and what becomes of the environment when a configuration is read again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.settings import settings_for

from agent.cli.control import pick
from agent.cli.daemon import changed_by
from agent.cli.records import LiveAgent
from agent.cli.report import clean, lines_of
from agent.cli.resume import result_line
from agent.errors import UnknownAgent, UsageError
from agent.models import Succession, WorkerSetup
from agent.runner.rundir import Runs
from agent.worker.bars import Bars
from agent.worker.crew import Undivided
from agent.worker.identity import Identity
from agent.worker.marks import Pause
from agent.worker.operations import Operations
from agent.worker.reload import Reload, Successor, original_environment
from agent.worker.service import Supervisor
from agent.worker.signals import Stop
from agent.worker.standing import Standing


def living(*ids: str) -> list[LiveAgent]:
    return [LiveAgent(worker_id=name, pid=1, start_ticks=1, is_ready=True) for name in ids]


@pytest.mark.parametrize(
    ("running", "suffix", "found"),
    [
        (("testhost:gpu0", "testhost:gpu1"), "gpu1", "testhost:gpu1"),
        (("testhost:gpu1:0", "testhost:gpu10"), "gpu1", "testhost:gpu1:0"),
        (("testhost:0", "other:0"), None, "testhost:0"),
        (("testhost:cpu:0", "testhost:gpu0"), "cpu", "testhost:cpu:0"),
    ],
)
def test_the_only_agent_that_options_can_mean_is_meant(running: tuple[str, ...], suffix: str, found: str) -> None:
    assert [agent.worker_id for agent in pick(living(*running), (), settings_for(), suffix=suffix)] == [found]


def test_where_several_may_be_meant_none_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="testhost:0, testhost:1"):
        pick(living("testhost:0", "testhost:1"), (), settings_for(), suffix=None)
    with pytest.raises(UnknownAgent) as error:
        pick(living("testhost:0"), (), settings_for(worker_id="mine"), suffix=None)
    assert (error.value.exit_code, error.value.hint) == (6, "Running: testhost:0.")


def test_what_the_configuration_has_changed_in_the_environment_can_be_undone() -> None:
    before = {"KEPT": "1", "CHANGED": "old", "HIDDEN": "0"}
    now = {"KEPT": "1", "CHANGED": "new", "ADDED": "x"}
    setup = WorkerSetup(settings={}, environment_before=changed_by(now, before))
    assert original_environment(now, setup) == before
    assert original_environment({**now, "LATER": "2"}, setup) == {**before, "LATER": "2"}


def test_a_set_up_travels_whole() -> None:
    setup = WorkerSetup(
        settings={},
        arguments=("daemon", "--queue", "a b"),
        environment_before={"A": None, "B": "b"},
        given_config={"name": "/etc/x", "text": "agent {}"},
        succession=Succession(worker_id="h:0", slot=0, descriptor=7, was_ready=True),
    )
    assert WorkerSetup.from_json(setup.to_json()) == setup


def test_a_pause_is_what_the_file_says_and_one_that_cannot_be_read_is_one_all_the_same(tmp_path: Path) -> None:
    pause = Pause(tmp_path / "host%3a0.lock")
    assert pause.reason() is None
    pause.begin("disks")
    assert Pause(tmp_path / "host%3a0.lock").reason() == "disks"
    pause.path.write_text("torn")
    assert pause.reason() == ""
    pause.end()
    pause.end()
    assert pause.reason() is None


def test_all_bars_are_told_the_gravest_first() -> None:
    bars = Bars()
    bars.put(Standing.PAUSED, "disks")
    bars.put(Standing.CORDONED, "GPU 1 is lost")
    assert [(bar.standing, bar.why) for bar in bars.every()] == [
        (Standing.CORDONED, "GPU 1 is lost"),
        (Standing.PAUSED, "disks"),
    ]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"was": "paused", "still": "", "draining": False}, "Resumed h:0"),
        ({"was": "", "still": "", "draining": False}, "h:0 was not paused"),
        ({"was": "paused", "still": "", "draining": True}, "h:0 is draining: it takes no task, and leaves"),
        ({"was": "paused", "still": "cordoned: x", "draining": False}, "h:0 still takes no task: cordoned: x"),
    ],
)
def test_what_resuming_has_done_is_said(answer: dict[str, Any], line: str) -> None:
    assert result_line("h:0", answer) == line


def test_an_agent_that_does_not_answer_has_a_line_too_and_no_name_steers_the_terminal() -> None:
    report = {"answers": False, "worker": "h:0", "pid": 7, "ready": True, "error": "it hangs"}
    assert list(lines_of(report, now=0)) == ["h:0 (pid 7): it hangs"]
    assert clean("a\x1b[2Jb\nc") == "a?[2Jb?c"


def test_a_pause_is_not_acknowledged_while_a_claim_is_half_done(tmp_path: Path) -> None:
    asyncio.run(_pause_amid_a_claim(tmp_path))


async def _pause_amid_a_claim(tmp_path: Path) -> None:
    undivided, bars = Undivided(), Bars()
    post = SimpleNamespace(
        identity=SimpleNamespace(record=tmp_path / "host.lock", worker_id="host"),
        duty=SimpleNamespace(crew=SimpleNamespace(undivided=undivided)),
        runs=Runs(tmp_path / "runs"),
        bars=bars,
    )
    pausing: asyncio.Task[Any]
    with undivided():
        pausing = asyncio.create_task(Operations(post, None)({"do": "pause", "why": "disks"}))  # type: ignore[arg-type]
        while not bars:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        assert not pausing.done()
    assert await asyncio.wait_for(pausing, 5) == {"tasks": []}


def test_a_request_that_comes_while_the_agent_begins_anew_is_for_the_next_one(tmp_path: Path) -> None:
    setup = asyncio.run(_reread_amid_a_reload(tmp_path, WorkerSetup(settings=settings_for().to_json())))
    assert setup.succession is not None
    stop, identity = Stop(), Identity(worker_id="h", slot=None, record=tmp_path / "h.lock", descriptor=0)
    Reload(setup, identity, Supervisor(), stop, environ={})
    assert stop.reread.is_set()


async def _reread_amid_a_reload(tmp_path: Path, setup: WorkerSetup) -> WorkerSetup:
    identity, stop = Identity(worker_id="h", slot=None, record=tmp_path / "h.lock", descriptor=0), Stop()
    reload = Reload(setup, identity, Supervisor(), stop, environ={})
    reload.accept(Successor(setup=setup, environment={}))
    stop.reread.set()
    await asyncio.wait_for(reload.on_request(), 5)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        found = reload.successor(has_runs=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert found is not None
    return found.setup
