"""A small fleet of the benchmark's simulated agents: each task runs once, nobody is missing, nothing refused."""

from __future__ import annotations

import asyncio

from support.apiserver import ServerProcess

from benchmarks import simagents
from benchmarks.simagents import Fleet
from demo.api import Account

AGENTS = 40
TASKS = 60


def test_every_task_of_a_fleet_runs_once_while_tags_change_under_it() -> None:
    with ServerProcess() as server:
        account = Account(
            api_server=server.api, files_server="", access_key=server.access_key, secret_key=server.secret_key
        )
        simagents.run(lambda: play(account))
        assert server.call("workers.get_all")["workers"] == []


async def play(account: Account) -> None:
    async with simagents.open_fleet(account, "simulated") as fleet:
        await fleet.grow(AGENTS)
        tasks = await asyncio.gather(*(feed(fleet, number) for number in range(TASKS)))
        assert await simagents.until(lambda: fleet.ledger.completed == set(tasks), seconds=30)
        assert fleet.ledger.claims == dict.fromkeys(tasks, 1)
        listed = {worker["id"] for worker in (await fleet.client("workers.get_all"))["workers"]}
        assert listed == {agent.worker for agent in fleet.agents}
        assert await simagents.until(lambda: fleet.waiting == AGENTS, seconds=30)
        assert fleet.ledger.broken == []


async def feed(fleet: Fleet, number: int) -> str:
    task: str = (await fleet.client("tasks.create", name="simulated", type="training"))["id"]
    if number % 10 == 0:
        await fleet.client("queues.update", queue=fleet.queue, tags=[f"tag {number}"])
    await fleet.enqueue(task)
    return task
