"""A fleet of simulated agents in one process: what the server sees of thousands of ours, without their machines.

Each agent registers, waits for its next task in a held call of its own connection, claims what it is shown, reports it
started and completed at once, and says every half minute how its machine is. That is HTTP/1.1 by hand over asyncio
streams: the load generator shares the machine with the server, so it has to be much cheaper than it. What a fleet has
seen is written into its ledger; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvloop

from demo.api import Account

Json = dict[str, Any]
T = TypeVar("T")

HOLD_SECONDS = 25.0
REPORT_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
RETRY_SECONDS = 1.0
KEPT_SECONDS = 60.0  # the server hangs up on connections that are idle for twice as long
SHARED_CONNECTIONS = 32

GPUS = 8
GPU_READINGS = {"gpu_usage": 100.0, "gpu_memory_used": 8e4, "gpu_memory_free": 8e4, "gpu_temperature": 90.0}


class Refused(Exception):
    """The server answered with something else than 200."""


def run(story: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Play a story on an event loop of its own, with as many connections as the system lets us have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story())


class Connection:
    """One kept connection; one call at a time."""

    def __init__(self, account: Account, authorization: str) -> None:
        address = urlsplit(account.api_server)
        self._where = (address.hostname or "127.0.0.1", address.port or 8008)
        self._head = f"Host: {address.netloc}\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last_used = 0.0

    async def call(self, endpoint: str, body: Json) -> Json:
        """The `data` of the reply; a connection on which anything went wrong is closed, the next call opens another."""
        if time.perf_counter() - self._last_used > KEPT_SECONDS:
            self.close()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._exchange(endpoint, json.dumps(body))
        except BaseException:
            self.close()
            raise

    async def _exchange(self, endpoint: str, body: str) -> Json:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._where)
        reader, writer = self._streams
        writer.write(f"POST /{endpoint} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        envelope = json.loads(await reader.readexactly(length))
        if envelope["meta"]["result_code"] != 200:
            raise Refused(f"{endpoint}: {envelope['meta']['result_code']} {envelope['meta']['result_msg']}")
        self._last_used = time.perf_counter()
        data: Json = envelope["data"]
        return data

    def close(self) -> None:
        """Hang up; the server notices."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Client:
    """Everything but the held calls, over a few connections that all agents share."""

    def __init__(self, account: Account, token: str) -> None:
        self._account = account
        self._token = token
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for _ in range(SHARED_CONNECTIONS):
            self._idle.put_nowait(self.connection())

    @classmethod
    async def of(cls, account: Account) -> Client:
        """Log in, once for all agents."""
        pair = base64.b64encode(f"{account.access_key}:{account.secret_key}".encode()).decode()
        login = Connection(account, f"Basic {pair}")
        try:
            return cls(account, (await login.call("auth.login", {}))["token"])
        finally:
            login.close()

    def connection(self) -> Connection:
        """A connection for one agent alone."""
        return Connection(self._account, f"Bearer {self._token}")

    async def __call__(self, endpoint: str, **body: Any) -> Json:
        """One call, on whichever connection is free."""
        connection = await self._idle.get()
        try:
            return await connection.call(endpoint, body)
        finally:
            self._idle.put_nowait(connection)

    def close(self) -> None:
        """Hang up."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


@dataclass(slots=True)
class Ledger:
    """What the agents of a fleet have seen; times are those of `time.perf_counter`."""

    claimed: dict[str, float] = field(default_factory=dict)  # task → when the reply that gave it was seen
    claims: Counter[str] = field(default_factory=Counter)
    completed: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


class Agent:
    """One agent: a loop that waits for tasks and one that reports."""

    def __init__(self, client: Client, ledger: Ledger, *, worker: str, queue: str, luck: random.Random) -> None:
        self.worker = worker
        self.is_waiting = False
        self._client = client
        self._ledger = ledger
        self._queue = queue
        self._luck = luck
        self._held = client.connection()
        self._known = ""
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Register, and begin both loops."""
        await self._client("workers.register", worker=self.worker, queues=[self._queue])
        self._loops = [asyncio.create_task(self._work()), asyncio.create_task(self._report())]

    async def stop(self) -> None:
        """Leave as an agent does."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._held.close()
        await self._client("workers.unregister", worker=self.worker)

    async def _work(self) -> None:
        await self._tried(self._next(0.0))
        hold = self._luck.uniform(0, HOLD_SECONDS)  # agents that were not all started in the same second
        while True:
            await self._tried(self._next(hold))
            hold = HOLD_SECONDS

    async def _report(self) -> None:
        await asyncio.sleep(self._luck.uniform(0, REPORT_SECONDS))
        while True:
            await self._tried(self._report_once())
            await asyncio.sleep(REPORT_SECONDS)

    async def _tried(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except (Refused, OSError, EOFError, ValueError) as error:
            self._ledger.broken.append(f"{self.worker}: {error!r}")
            await asyncio.sleep(RETRY_SECONDS)

    async def _next(self, hold: float) -> None:
        watch = {"worker": self.worker, "queues": [self._queue], "known": self._known}
        self.is_waiting = bool(self._known)
        try:
            reply = await self._held.call(
                "queues.get_next_task", {"queues": [self._queue], "wait": hold, "peek": True, "watch": watch}
            )
        finally:
            self.is_waiting = False
        self._known = reply["steering"]["mark"]
        if "entry" in reply:
            await self._run(reply["entry"]["task"])

    async def _run(self, task: str) -> None:
        """Claim it by name, and do nothing for it."""
        claim = f"{self._luck.getrandbits(128):032x}"
        reply = await self._client("queues.get_next_task", queue=self._queue, task=task, claim=claim)
        if "entry" not in reply:
            return  # somebody else has it
        self._ledger.claimed[task] = time.perf_counter()
        self._ledger.claims[task] += 1
        told = {"status_reason": "simulated", "status_message": "", "force": False}
        await self._client("tasks.started", task=task, **told)
        await self._client("tasks.completed", task=task, **told)
        self._ledger.completed.add(task)

    async def _report_once(self) -> None:
        await self._client(
            "workers.status_report",
            worker=self.worker,
            timestamp=int(time.time() * 1000),
            queues=[self._queue],
            tags=[],
            is_daemon=True,
            machine_stats=machine_stats(self._luck),
        )


def machine_stats(luck: random.Random) -> Json:
    """Readings of a host of eight GPUs."""
    return {
        "cpu_usage": [round(luck.uniform(0, 100), 3)],
        "cpu_temperature": [round(luck.uniform(30, 80), 3)],
        "memory_used": round(luck.uniform(1e3, 1e6), 3),
        "memory_free": round(luck.uniform(1e3, 1e6), 3),
        "disk_free_home": round(luck.uniform(1e3, 1e6), 3),
        "network_tx": round(luck.uniform(0, 1e3), 3),
        "network_rx": round(luck.uniform(0, 1e3), 3),
        "disk_read": round(luck.uniform(0, 1e3), 3),
        "disk_write": round(luck.uniform(0, 1e3), 3),
        **{name: [round(luck.uniform(0, most), 3) for _ in range(GPUS)] for name, most in GPU_READINGS.items()},
    }


class Fleet:
    """Some agents of one queue, and what all of them have seen."""

    def __init__(self, client: Client, queue: str) -> None:
        self.client = client
        self.queue = queue
        self.ledger = Ledger()
        self.agents: list[Agent] = []
        self._luck = random.Random(1)

    async def grow(self, size: int) -> None:
        """Start as many agents as are missing, and wait until every one of them waits for a task."""
        new = [self._agent(number) for number in range(len(self.agents), size)]
        self.agents += new
        await asyncio.gather(*(agent.start() for agent in new))
        if not await until(lambda: self.waiting >= size, seconds=PATIENCE_SECONDS):
            raise RuntimeError(f"only {self.waiting} of {size} agents wait for a task: {self.ledger.broken[:3]}")

    def _agent(self, number: int) -> Agent:
        worker, luck = f"simulated-{number:04d}:gpu0-7", random.Random(self._luck.random())
        return Agent(self.client, self.ledger, worker=worker, queue=self.queue, luck=luck)

    @property
    def waiting(self) -> int:
        """How many agents are in a held call."""
        return sum(agent.is_waiting for agent in self.agents)

    async def enqueue(self, task: str) -> float:
        """Put a task into the queue; the time just before."""
        started = time.perf_counter()
        await self.client("tasks.enqueue", task=task, queue=self.queue)
        return started

    async def stop(self) -> None:
        """Every agent leaves."""
        await asyncio.gather(*(agent.stop() for agent in self.agents), return_exceptions=True)


@asynccontextmanager
async def open_fleet(account: Account, name: str) -> AsyncIterator[Fleet]:
    """A fleet without agents, and a queue of this name for it."""
    client = await Client.of(account)
    fleet = Fleet(client, (await client("queues.create", name=name))["id"])
    try:
        yield fleet
    finally:
        await fleet.stop()
        client.close()


async def until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Wait for a condition; False when the time is over."""
    deadline = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
