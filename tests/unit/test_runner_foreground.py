"""`execute` has no successor that could adopt its task, so what it cannot finish must at least end."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from support.fake_api import fake_api
from support.runs import claim_of, run_context
from support.settings import settings_for

from agent.errors import Interrupted, ServerUnreachable
from agent.models import Task
from agent.runner import foreground
from agent.runner.claim import Claimed
from agent.runner.console import Console
from agent.runner.rundir import Runs
from agent.states import RunPhase


def test_ctrl_c_ends_it_even_while_the_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "EXECUTOR_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(foreground, "REPORT_SECONDS", 0.05)

    def away(_: Any) -> dict[str, Any]:
        raise ServerUnreachable("refused")

    async def announce(task: str | None, queue: str | None) -> None:
        return

    async def scenario() -> None:
        api, _ = fake_api(tasks__started=away, tasks__get_all=away)
        context = run_context(api, settings=settings_for(stop_grace_seconds=0.0))
        run, claim = Runs(tmp_path).create(claim_of(queue="", queue_name="", phase=RunPhase.CLAIMED))
        context.end_task.set()
        async with asyncio.timeout(5):
            await foreground._run_watched(context, Claimed(run=run, claim=claim, task=Task(id="t1")))

    with pytest.raises(Interrupted, match="could not be told"):
        asyncio.run(scenario())


def _echoed(directory: Path, output: Any) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        ended.set()
        await foreground._echo(Console(directory), output, ended)

    asyncio.run(scenario())


def test_a_reader_who_has_gone_away_does_not_fail_the_task(tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    (tmp_path / "000001.log").write_text("1000\to\ta\n")
    _echoed(tmp_path, Closed())


def test_the_console_of_a_run_that_was_removed_is_empty(tmp_path: Path) -> None:
    output = io.StringIO()
    _echoed(tmp_path / "gone", output)
    assert output.getvalue() == ""
