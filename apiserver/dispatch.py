"""From an HTTP request to a handler and back: the one place where every call passes.

    preflight → path → size → identity → body → handler → envelope

Written against ASGI itself rather than a router, because the methods are equal, the path is a grammar of its own, and a
waiting call must notice that its client went away.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from . import endpoints, errors, wire
from .auth import COOKIE
from .calls import Call
from .errors import ApiError
from .fields import Fields
from .identity import NOBODY, Identity

if TYPE_CHECKING:
    from .app import Services

log = logging.getLogger(__name__)

GZIP_ABOVE_BYTES = 500
MOST_DRAINED_BYTES = 512 * 1024 * 1024
SLOW_CALL_SECONDS = 1.0

_METHODS = {"GET", "POST", "PUT"}
_PLAIN = [(b"content-type", b"text/plain; charset=utf-8"), (b"server", b"clearml")]
_PREFLIGHT = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, OPTIONS"),
    (b"access-control-allow-headers", b"*"),
    (b"content-length", b"0"),
    (b"server", b"clearml"),
]


class Dispatcher:
    """The ASGI application behind every endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] == "OPTIONS":
            await _send(send, 200, _PREFLIGHT, b"")
        elif scope["method"] not in _METHODS:
            await _send(send, 405, _PLAIN, b"Use GET, POST or PUT")
        elif headers.get("content-encoding"):
            await _send(send, 415, _PLAIN, b"Content-Encoding is not supported in requests")
        else:
            await self._answer(_Request(scope, receive, headers), send)

    async def _answer(self, request: _Request, send: Send) -> None:
        started = time.monotonic()
        extra = _hang_up_on_forks(request)
        try:
            data = await self._run(request, extra)
            if isinstance(data, Response):  # a download: text, not an envelope
                await data(request.scope, request.receive, send)
                return
            status, envelope = 200, wire.reply(request.meta, data)
        except ApiError as error:
            extra.update(error.headers)
            status, envelope = error.code, wire.error_reply(request.meta, error)
        except Exception as error:
            log.exception("%s failed", request.meta.name, extra={"action": "call.error"})
            status, envelope = 500, wire.error_reply(request.meta, errors.INTERNAL(type(error).__name__))
        finally:
            request.stop_watching()
        await self._reply(request, send, status, envelope, extra)
        request.note(time.monotonic() - started, status)

    async def _run(self, request: _Request, extra: dict[str, str]) -> Mapping[str, Any] | Response:
        path = wire.parse_path(request.path)
        request.meta = replace(request.meta, name=path.name, requested=path.requested, actual=path.requested)
        endpoint = endpoints.find(path.name, path.version)
        request.meta = replace(request.meta, actual=f"{endpoint.since[0]}.{endpoint.since[1]}")
        is_batch = endpoint.batch and request.content_type == wire.JSON_LINES
        limits = self._services.config
        body = await request.body(limits.max_batch_bytes if is_batch else limits.max_body_bytes)
        call = self._call(request, path, await self._identity(request, endpoint))
        if is_batch:
            call.batch = wire.parse_batch(body, keep_nan=endpoint.keep_nan)
            values = wire.parse_query(request.query)
        else:
            values = wire.parse_body(body, request.content_type, request.query, keep_nan=endpoint.keep_nan)
        data: Mapping[str, Any] | Response = await endpoint.handler(call, Fields(values))
        if call.session_cookie is not None:
            extra["set-cookie"] = _set_cookie(call.session_cookie, secure=request.scope["scheme"] == "https")
        return data

    def _call(self, request: _Request, path: wire.Path, identity: Identity) -> Call:
        return Call(
            services=self._services,
            identity=identity,
            authenticated=identity is not NOBODY,
            name=path.name,
            version=path.version,
            worker=request.header("x-clearml-worker", "x-trains-worker"),
            client=request.header("x-clearml-client", "x-trains-client"),
            ip=request.ip(self._services.config.trusted_proxies),
            connection=request.connection,
            disconnected=request.disconnected,
        )

    async def _identity(self, request: _Request, endpoint: endpoints.Endpoint) -> Identity:
        auth = self._services.auth
        try:
            identity = await auth.acting(await auth.identify(request.headers), request.headers)
        except ApiError:
            if endpoint.auth:
                raise
            return NOBODY
        if endpoint.roles is not None and identity.role not in endpoint.roles:
            raise errors.ROLE_NOT_ALLOWED(role=identity.role, endpoint=endpoint.name)
        return identity

    async def _reply(
        self, request: _Request, send: Send, status: int, envelope: Mapping[str, Any], extra: Mapping[str, str]
    ) -> None:
        body = wire.to_bytes(envelope)
        headers = [
            (b"content-type", b"application/json"),
            (b"access-control-allow-origin", b"*"),
            (b"server", b"clearml"),
        ]
        if len(body) > GZIP_ABOVE_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
            headers.append((b"vary", b"accept-encoding"))
        headers.append((b"content-length", str(len(body)).encode()))
        headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in extra.items())
        await _send(send, status, headers, body)


def _hang_up_on_forks(request: _Request) -> dict[str, str]:
    """The SDK forks while it keeps connections, and then parent and child read each other's replies from the same one.

    Seen: the reply to `tasks.edit` taken for that to `models.get_by_id`. A closed connection cannot be shared.
    """
    return {"connection": "close"} if request.header("x-clearml-client", "x-trains-client") else {}


class _Request:
    """What we need of an ASGI request."""

    def __init__(self, scope: Scope, receive: Receive, headers: dict[str, str]) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = headers
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        self._client: tuple[str, int] = scope.get("client") or ("", 0)
        self._watch: asyncio.Task[None] | None = None
        self._has_waited = False
        call_id = uuid4().hex
        trx = self.header("x-clearml-trx", "x-trains-trx") or call_id
        self.meta = wire.Meta(id=call_id, trx=trx, name="", requested="0.0", actual="0.0")

    def header(self, *names: str) -> str:
        """The first of these headers that is there."""
        return next((self.headers[name] for name in names if name in self.headers), "")

    @property
    def connection(self) -> str:
        """The client's end of the connection."""
        return f"{self._client[0]}:{self._client[1]}"

    def ip(self, trusted: tuple[str, ...]) -> str:
        """The client's address; through a proxy that we trust, the one it names."""
        if self._client[0] in trusted:
            forwarded = self.headers.get("x-forwarded-for", "").split(",")[0].strip()
            return forwarded or self.headers.get("x-real-ip", "") or self._client[0]
        return self._client[0]

    async def body(self, limit: int) -> bytes:
        """The whole body. One that is too large is read to its end and dropped, so that the client sees the reply."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message: Message = await self.receive()
            if message["type"] == "http.disconnect":
                raise errors.BAD_REQUEST("client disconnected")
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size > MOST_DRAINED_BYTES:
                raise _too_large(limit)
            else:
                chunks.clear()
            if not message.get("more_body", False):
                break
        if size > limit:
            raise _too_large(limit)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def disconnected(self) -> asyncio.Future[None]:
        """Done when the client goes away; for calls that wait."""
        if self._watch is None:
            self._has_waited = True
            self._watch = asyncio.get_running_loop().create_task(self._until_disconnected())
        return self._watch

    def stop_watching(self) -> None:
        """The call is answered, nobody waits any more.

        The watch is let go: its traceback leads back to us, and thousands of such circles are work for the collector.
        """
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def note(self, seconds: float, status: int) -> None:
        """A line for the log; slow calls that were not asked to wait are worth a warning."""
        slow = seconds > SLOW_CALL_SECONDS and not self._has_waited
        if slow or log.isEnabledFor(logging.DEBUG):
            level = logging.WARNING if slow else logging.DEBUG
            log.log(level, "%s %d %.1f ms", self.meta.name, status, seconds * 1000, extra={"action": "call"})

    async def _until_disconnected(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _set_cookie(token: str, *, secure: bool) -> str:
    """The header that keeps a token in the browser, or with an empty one removes it."""
    attributes = f"Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}{'' if token else '; Max-Age=0'}"
    return f"{COOKIE}={token}; {attributes}"


def _too_large(limit: int) -> ApiError:
    return ApiError(413, 0, "request body is too large", data={"limit": limit}, headers={"connection": "close"})


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
