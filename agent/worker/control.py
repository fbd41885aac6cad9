"""The socket where an operator of this host talks to an agent: `<state>/workers/<worker id>.sock`.

One line of JSON in, one line out, and the connection ends:

    {"version": 1, "do": "pause", "why": "new power supply"}
    {"version": 1, "ok": true, ...}
    {"version": 1, "ok": false, "error": "what failed", "hint": "what to try", "exit_code": 1}

Who may connect is said twice: by the mode of the file (0600, in a folder of 0700), and by the kernel, which knows whose
process is at the other end (SO_PEERCRED in unix(7)). Whoever sends nonsense, too much, or nothing gets an error or is
dropped; the agent has more important things to do than to wait for him.

A path of more than 107 bytes cannot be bound or connected to. So the socket is bound by a short name through a
descriptor of its folder and then renamed, which also replaces what an agent that was killed has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from agent.errors import AgentError
from agent.models import Json

log = logging.getLogger(__name__)

VERSION = 1
#: A request may carry a configuration file.
LONGEST_REQUEST = 1024 * 1024
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 10.0
#: An agent that leaves does not wait longer than this for an answer to be ready.
CLOSE_SECONDS = 1.0
MOST_CLIENTS = 16

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid

#: From a request to what the answer has beside `version` and `ok`. Raises AgentError for what is not possible.
Answer = Callable[[Json], Awaitable[Json]]


def socket_of(record: Path) -> Path:
    """Where the agent with this record listens."""
    return record.with_suffix(".sock")


@contextlib.asynccontextmanager
async def listening_on(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Answer at `path` while the block runs. An agent that cannot have a socket works all the same."""
    try:
        listener = bind(path)
    except OSError as error:
        log.warning("no control socket at %s: %s", path, error, extra={"action": "control"})
        yield
        return
    desk = _Desk(answer)
    server = await asyncio.start_unix_server(desk.serve, sock=listener, limit=LONGEST_REQUEST)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        server.close()
        await desk.close()


def bind(path: Path) -> socket.socket:
    """A listening socket at `path`, whatever was there before, for nobody but its user from the first moment on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    short = f".{os.getpid()}.sock"
    try:
        os.fchmod(listener.fileno(), 0o600)  # becomes the mode of the file
        with contextlib.suppress(FileNotFoundError):
            os.unlink(short, dir_fd=folder)
        listener.bind(f"/proc/self/fd/{folder}/{short}")
        listener.listen(MOST_CLIENTS)
        os.rename(short, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def is_welcome(uid: int) -> bool:
    """Whether a process of this user may talk to us: our own user, and root, who can do it in other ways, too."""
    return uid in (os.geteuid(), 0)


class _Desk:
    """The clients that are here at the moment."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._clients: set[asyncio.Task[None]] = set()
        self._answered: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from its request to its answer."""
        me = asyncio.current_task()
        if me is None:
            return
        if len(self._clients) >= MOST_CLIENTS:
            writer.transport.abort()
            return
        self._clients.add(me)
        try:
            said = await self._answer_to(me, reader, writer)
            text = json.dumps({"version": VERSION, **said}, ensure_ascii=False)
            writer.write(text.encode("utf-8", "replace") + b"\n")
            await asyncio.wait_for(writer.drain(), ANSWER_SECONDS)
        except (OSError, TimeoutError) as error:
            log.debug("a client of the control socket is gone: %s", error)
        finally:
            self._clients.discard(me)
            self._answered.discard(me)
            writer.close()

    async def close(self) -> None:
        """Let go of whoever is still here; who has asked for something gets his answer."""
        for client in self._clients - self._answered:
            client.cancel()
        if self._answered:
            await asyncio.wait(tuple(self._answered), timeout=CLOSE_SECONDS)
        for client in (left := tuple(self._clients)):
            client.cancel()
        if left:
            await asyncio.wait(left)

    async def _answer_to(
        self, me: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Json:
        try:
            if not is_welcome(_peer_of(writer)):
                raise AgentError("this agent belongs to another user")
            request = await _read_request(reader)
            self._answered.add(me)
            return {"ok": True, **await self._answer(request)}
        except AgentError as error:
            return _refusal(error)
        except OSError as error:
            return _refusal(AgentError(f"the agent could not do it: {error}"))
        except Exception as error:
            log.exception("a request of the control socket failed", extra={"action": "control"})
            return _refusal(AgentError(f"internal error: {type(error).__name__}", hint="The agent's log has more."))


def _refusal(error: AgentError) -> Json:
    return {"ok": False, "error": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _peer_of(writer: asyncio.StreamWriter) -> int:
    """The user of the process at the other end."""
    connection = writer.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


async def _read_request(reader: asyncio.StreamReader) -> Json:
    try:
        line = await asyncio.wait_for(reader.readline(), REQUEST_SECONDS)
    except TimeoutError as error:
        raise AgentError(f"no request within {REQUEST_SECONDS:.0f} s") from error
    except ValueError as error:  # of StreamReader.readline: longer than its limit
        raise AgentError(f"a request has at most {LONGEST_REQUEST} bytes") from error
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AgentError("a request is one line of JSON") from error
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise AgentError('a request is an object with "do"')
    if request.get("version") != VERSION:
        raise AgentError(f"this agent speaks version {VERSION}, the request {request.get('version')!r}")
    return request
