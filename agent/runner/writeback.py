"""Writes what the executor found out back to the task: the packages as installed, and the commit as checked out."""

from __future__ import annotations

import asyncio
import logging

from agent.api import tasks
from agent.api.client import AsyncClient, Call
from agent.errors import ApiError
from agent.models import Json, Task
from agent.runner.rundir import RunDirectory
from agent.steps import Step, reached
from agent.wire import text, texts

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2


def calls_for(task: Task, environment: Json) -> list[Call[Json]]:
    """The calls that bring the task up to date.

    The frozen list replaces `requirements.pip`; what the user had written is kept once under `org_pip`, so a second run
    of the same task does not lose it. The commit is written only where the task had none.
    """
    calls: list[Call[Json]] = []
    if not task.raw:  # its description is lost: what the user had written there could not be kept
        return calls
    frozen = texts(environment.get("frozen"))
    if frozen:
        requirements = dict(task.script.requirements)
        if "org_pip" not in requirements:
            requirements["org_pip"] = requirements.get("pip") or ""
        requirements["pip"] = "\n".join(frozen) + "\n"
        if requirements != dict(task.script.requirements):
            calls.append(tasks.set_requirements(task.id, requirements))
    commit = text(environment.get("commit"))
    if commit and not task.script.version_num:
        calls.append(tasks.edit(task.id, {"script": {"version_num": commit}}))
    return calls


async def write_back(api: AsyncClient, run: RunDirectory, task: Task) -> None:
    """Wait for `environment.json`, then send what it says. Cancel it when the run has ended."""
    while (environment := run.read("environment")) is None:
        await asyncio.sleep(LOOK_SECONDS)
    await send_back(api, task, environment)


async def send_back(api: AsyncClient, task: Task, environment: Json) -> None:
    for call in calls_for(task, environment):
        try:
            await api.send_until_answered(call)
        except ApiError as error:
            log.warning("%s", error.message, extra={"action": "write_back"})
    reached(Step.PACKAGES_TOLD)
