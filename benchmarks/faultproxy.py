"""An HTTP proxy on the loopback interface that counts, watches for texts, and fails on request.

    with FaultProxy("http://127.0.0.1:8008") as proxy:
        start_agent(api_server=proxy.url)
        proxy.plan("tasks.started", Fault.DROP_AFTER)         # the next one of these
        proxy.fail(Fault.ERROR_BEFORE, Fault.ERROR_AFTER)     # all of them, taken in turns
        time.sleep(60)
        proxy.recover()

"Before" means that the server never saw the request, "after" that it acted on it and its answer was lost. A client
that repeats a request after the first kind loses nothing; after the second kind the same repetition doubles things.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

DELAY_SECONDS = 40.0


class Fault(StrEnum):
    """What happens to a request."""

    PASS = "pass"
    ERROR_BEFORE = "500 before effect"
    ERROR_AFTER = "500 after effect"
    HANG_BEFORE = "hang before effect"
    HANG_AFTER = "hang after effect"
    DROP_BEFORE = "connection closed before effect"
    DROP_AFTER = "connection closed after effect"
    GATEWAY_AFTER = "502 after effect"
    REFUSED = "429"
    DELAY = "answered late"


#: What never reaches the server.
BEFORE = frozenset({Fault.ERROR_BEFORE, Fault.HANG_BEFORE, Fault.DROP_BEFORE, Fault.REFUSED})
HANGING = frozenset({Fault.HANG_BEFORE, Fault.HANG_AFTER})
DROPPING = frozenset({Fault.DROP_BEFORE, Fault.DROP_AFTER})


def error_reply(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nfault\n".encode()


ERROR_REPLIES = {
    Fault.ERROR_BEFORE: error_reply("500 Internal Server Error"),
    Fault.ERROR_AFTER: error_reply("500 Internal Server Error"),
    Fault.GATEWAY_AFTER: error_reply("502 Bad Gateway"),
    Fault.REFUSED: error_reply("429 Too Many Requests"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request that came through: its path, what we did to it, and when (epoch seconds)."""

    path: str
    fault: Fault
    arrived: float
    answered: float


@dataclass(slots=True)
class _Message:
    """A request or a response, read completely, as the bytes to pass on."""

    head: bytes
    body: bytes = b""

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode().partition("?")[0]

    def keeps_alive(self) -> bool:
        return b"connection: close" not in self.head.lower()


class FaultProxy:
    """Runs in a thread of its own; every public method may be called from any thread."""

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname or "127.0.0.1", address.port or 80)
        self._faults: tuple[Fault, ...] = (Fault.PASS,)
        self._turn = 0
        self._planned: dict[str, list[Fault]] = {}
        self._watched: dict[bytes, float] = {}
        self._exchanges: list[Exchange] = []
        self._loop = asyncio.new_event_loop()
        self._recovered = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="faultproxy", daemon=True)
        self._ready = threading.Event()
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Every exchange that has ended so far."""
        return tuple(self._exchanges)

    def fail(self, *faults: Fault) -> None:
        """From now on treat requests like this, in turns."""
        self._recovered.clear()
        self._faults = faults

    def plan(self, endpoint: str, *faults: Fault) -> None:
        """Treat the next requests of this endpoint ("tasks.started") like this, whatever happens to the others."""
        self._planned.setdefault(f"/{endpoint}", []).extend(faults)

    def recover(self) -> None:
        """From now on pass requests on; connections whose request hangs are closed."""
        self._faults = (Fault.PASS,)
        self._loop.call_soon_threadsafe(self._recovered.set)

    def watch(self, text: str) -> None:
        """Note the time when the last request that carries this text has been answered."""
        self._watched[text.encode()] = 0.0

    def seen(self, text: str) -> float | None:
        """When a watched text was delivered (epoch seconds), if it was."""
        return self._watched.get(text.encode()) or None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._connections, return_exceptions=True))
            self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        link = _Link(self._upstream)
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._serve(request, link, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side went away, or we are being stopped
        finally:
            link.close()
            writer.close()
            self._connections.discard(task)

    async def _serve(self, request: _Message, link: _Link, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is to be closed."""
        arrived = time.time()
        fault = self._next_fault(request.path)
        reply = None if fault in BEFORE else await link.exchange(request)
        if reply is not None:
            self._note_watched(request)
        if fault in HANGING:
            await self._recovered.wait()
        if fault is Fault.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        if fault in HANGING | DROPPING:
            answer = b""
        elif fault in ERROR_REPLIES:
            answer = ERROR_REPLIES[fault]
        else:
            assert reply is not None
            answer = reply.raw
        self._exchanges.append(Exchange(path=request.path, fault=fault, arrived=arrived, answered=time.time()))
        writer.write(answer)
        await writer.drain()
        return bool(answer) and request.keeps_alive() and (reply is None or reply.keeps_alive())

    def _next_fault(self, path: str) -> Fault:
        if planned := self._planned.get(path):
            return planned.pop(0)
        fault = self._faults[self._turn % len(self._faults)]
        self._turn += 1
        return fault

    def _note_watched(self, request: _Message) -> None:
        now = time.time()
        for text in [text for text in self._watched if text in request.body]:
            self._watched[text] = now


@dataclass(slots=True)
class _Link:
    """The connection to the server that belongs to one client connection, opened when it is needed."""

    address: tuple[str, int]
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None)

    async def exchange(self, request: _Message) -> _Message:
        if self.streams is None:
            self.streams = await asyncio.open_connection(*self.address)
        reader, writer = self.streams
        writer.write(request.raw)
        await writer.drain()
        reply = await _read_message(reader)
        if not reply.keeps_alive():
            self.close()
        return reply

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def _read_request(reader: asyncio.StreamReader) -> _Message | None:
    """The next request of a kept connection; None when the client has closed it in between."""
    try:
        return await _read_message(reader)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def _read_message(reader: asyncio.StreamReader) -> _Message:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
    if headers.get(b"transfer-encoding") == b"chunked":
        return _Message(head, await _read_chunks(reader))
    return _Message(head, await reader.readexactly(int(headers.get(b"content-length", b"0"))))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body with its framing, so that it can be passed on as it is."""
    parts = []
    while True:
        size = await reader.readuntil(b"\r\n")
        parts += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
        if size.split(b";")[0].strip() == b"0":
            return b"".join(parts)
