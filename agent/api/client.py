"""Calls of the ClearML API: the envelope, the token, and what a refusal means.

A `Call` is a value made by the functions in `tasks`, `queues`, `workers`, `events` and `server`; a `Client` sends it.
Every call is a POST without a version in the path, which every server since 1.0 takes as "your newest"
(docs/architecture.md). Nothing is repeated here but one thing: after a 401 the token is renewed and the call sent once
more, since a call that was not authorised had no effect.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent import __version__
from agent.api.transport import Abort, Contact, Reply, Transport, proxy_for
from agent.config.schema import ApiSettings
from agent.errors import ApiError, ConfigError, CredentialsRefused, ReplyUnreadable, ServerUnreachable
from agent.models import Json
from agent.wire import number

T = TypeVar("T")

LOGIN_TIMEOUT_SECONDS = 10.0
#: How often a reply that cannot be read is asked for again by who would wait out any outage.
UNREADABLE_TRIES = 5
JSON_LINES = "application/json-lines"


def _as_is(data: Json) -> Json:
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request: the endpoint ("tasks.started"), its body, and how to read the reply's `data`.

    `body` may be a list of objects: then it travels as JSON lines. `hold_seconds` is how long the server may keep the
    request waiting on purpose; it is added to the read time-out.
    """

    endpoint: str
    body: Json | list[Json] = field(default_factory=dict)
    parse: Callable[[Json], T]
    hold_seconds: float = 0.0


def plain(endpoint: str, body: Json | None = None) -> Call[Json]:
    """A call whose reply is taken as it is."""
    return Call(endpoint=endpoint, body=body or {}, parse=_as_is)


class Client:
    """A logged-in session with one API server; safe to use from several threads."""

    def __init__(self, transport: Transport, settings: ApiSettings, *, name: str) -> None:
        self._transport = transport
        self._settings = settings
        self._name = name
        self._token = settings.auth_token or ""
        self._clock_ahead = 0.0
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return self._transport.base_url

    @property
    def contact(self) -> Contact:
        """Whether the server answers at present."""
        return self._transport.contact

    def send(self, call: Call[T], abort: Abort | None = None) -> T:
        """Send `call` and return its parsed reply; `abort` lets another thread give up waiting for it.

        Raises ServerUnreachable (no effect), ReplyLost (effect unknown), CredentialsRefused, or ApiError.
        """
        data = self._exchange(call, abort)
        try:
            return call.parse(data)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            # a reply we cannot read says nothing of the effect, like a reply that was lost
            raise ReplyUnreadable(f"the API server's reply to {call.endpoint} lacks what we need: {error!r}") from error

    def call(self, endpoint: str, body: Json | None = None) -> Json:
        """Send a call that has no function of its own and return the reply's `data`."""
        return self.send(plain(endpoint, body))

    def close(self) -> None:
        self._transport.close()

    @property
    def claims(self) -> Json:
        """The claims of the current token (unverified, as every ClearML client reads them); logs in if need be."""
        return _claims(self._fresh_token())

    def log_in(self) -> None:
        """Ask for a token now. Raises what `send` raises."""
        self._fresh_token(stale=self._token)

    def _exchange(self, call: Call[T], abort: Abort | None) -> Json:
        token = self._fresh_token()
        status, data = self._post(call, token, abort)
        if status == 401:
            token = self._fresh_token(stale=token)
            status, data = self._post(call, token, abort)
            if status == 401:
                raise CredentialsRefused(
                    f"the API server {self.base_url} does not accept our token for {call.endpoint}"
                )
        return data

    def _post(self, call: Call[T], token: str, abort: Abort | None) -> tuple[int, Json]:
        if isinstance(call.body, list):
            body = b"\n".join(_encoded(line) for line in call.body)
            content_type = JSON_LINES
        else:
            body, content_type = _encoded(call.body), "application/json"
        headers = self._headers(f"Bearer {token}", content_type)
        timeout = self._settings.read_timeout_seconds + call.hold_seconds
        reply = self._transport.post(f"/{call.endpoint}", body, headers, timeout=timeout, abort=abort)
        return _read_envelope(call.endpoint, reply)

    def _fresh_token(self, *, stale: str | None = None) -> str:
        with self._lock:
            if not self._token or self._token == stale or self._is_expiring(self._token):
                self._token = self._log_in()
                self._clock_ahead = _clock_ahead_of(self._token)
            return self._token

    def _is_expiring(self, token: str) -> bool:
        """Renewal starts when less than the threshold, or than half of a short-lived token's life, remains.

        In the time of the server: with a wrong clock of ours, each call would begin with a login.
        """
        claims = _claims(token)
        expires, issued = number(claims.get("exp")), number(claims.get("iat"))
        if expires is None:
            return False
        threshold = float(self._settings.token_expiration_threshold_seconds)
        if issued is not None:
            threshold = min(threshold, (expires - issued) / 2)
        return time.time() - self._clock_ahead > expires - threshold

    def _log_in(self) -> str:
        settings = self._settings
        if settings.access_key and settings.secret_key:
            pair = f"{settings.access_key}:{settings.secret_key}".encode()
            authorization = "Basic " + binascii.b2a_base64(pair, newline=False).decode()
        elif self._token or settings.auth_token:
            authorization = f"Bearer {self._token or settings.auth_token}"
        else:
            raise ConfigError(
                "no credentials for the API server are configured",
                hint="Set api.credentials.access_key and secret_key in clearml.conf, or CLEARML_API_ACCESS_KEY and "
                "CLEARML_API_SECRET_KEY; `clearml-agent init` writes the file",
            )
        headers = self._headers(authorization, "application/json")
        reply = self._transport.post("/auth.login", b"{}", headers, timeout=LOGIN_TIMEOUT_SECONDS)
        status, data = _read_envelope("auth.login", reply)
        token = data.get("token")
        if status == 401 or not isinstance(token, str):
            raise CredentialsRefused(
                f"the API server {self.base_url} refused the credentials (access key {_masked(settings.access_key)})",
                hint="Compare api.credentials in clearml.conf with the server's; a key may have been revoked",
            )
        return token

    def _headers(self, authorization: str, content_type: str) -> dict[str, str]:
        return {
            "Authorization": authorization,
            "Content-Type": content_type,
            "Accept": "application/json",
            "X-ClearML-Worker": _header_text(self._name),
            "X-Trains-Worker": _header_text(self._name),
            "X-ClearML-Agent": f"gpufleet-{__version__}",
        }


def _header_text(text: str) -> str:
    """What a header may carry (RFC 9110): a name in another alphabet must not keep its agent from speaking."""
    return "".join(char if char.isprintable() and char.isascii() else "?" for char in text)


def _encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _read_envelope(endpoint: str, reply: Reply) -> tuple[int, Json]:
    """(200, data) or (401, {}); every other refusal is raised. An answer without envelope is not an API server's."""
    try:
        envelope = json.loads(reply.body)
        meta, data = envelope["meta"], envelope.get("data") or {}
        code, subcode = int(meta["result_code"]), int(meta.get("result_subcode") or 0)
        message = str(meta.get("result_msg") or "")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, RecursionError) or type(error) is ValueError:  # JSON, and Python refuses to read it
            raise ReplyUnreadable(f"the API server's reply to {endpoint} cannot be read: {error}") from error
        if reply.status >= 500 or reply.status == 429:
            raise ApiError(endpoint, reply.status, 0, f"HTTP status {reply.status} from a server or a proxy") from error
        raise ServerUnreachable(
            f"what answered {endpoint} is not a ClearML API server (HTTP status {reply.status})",
            hint="api.api_server has to be the API's address (port 8008 by default), not the web page's",
        ) from error
    if code == 401:
        return 401, {}
    if code != 200:
        raise ApiError(endpoint, code, subcode, message)
    if not isinstance(data, dict):
        raise ReplyUnreadable(f"the API server's reply to {endpoint} holds no object")
    return 200, data


def _claims(token: str) -> Json:
    """The payload of a JWT, unverified; {} if it is not one."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        padded = parts[1].replace("-", "+").replace("_", "/") + "=" * (-len(parts[1]) % 4)
        claims = json.loads(binascii.a2b_base64(padded))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _clock_ahead_of(token: str) -> float:
    """How far our clock is ahead of the one that has just issued this token, in seconds."""
    issued = number(_claims(token).get("iat"))
    return 0.0 if issued is None else time.time() - issued


def _masked(key: str | None) -> str:
    return f"{key[:4]}…" if key else "none"


def open_client(settings: ApiSettings, *, name: str = "", environ: Mapping[str, str] | None = None) -> Client:
    """A client for the configured server; nothing is sent yet. `name` is the machine name the server shows."""
    environ = os.environ if environ is None else environ
    transport = Transport(
        settings.api_server,
        connect_timeout=settings.connect_timeout_seconds,
        verify=settings.verify_certificate,
        proxy=proxy_for(settings.api_server, environ),
    )
    return Client(transport, settings, name=name or socket.gethostname())


class AsyncClient:
    """The same client for code that runs in the event loop: every call happens in a thread.

    Cancelling a call gives up its connection, so that no thread stays behind in a request that the server holds.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def sync(self) -> Client:
        return self._client

    async def send(self, call: Call[T]) -> T:
        abort = Abort()
        try:
            return await asyncio.to_thread(self._client.send, call, abort)
        except asyncio.CancelledError:
            abort.abort()
            raise

    async def send_until_answered(
        self,
        call: Call[T],
        *,
        first_pause: float = 0.2,
        longest_pause: float = 15.0,
        give_up_after: float | None = None,
    ) -> T:
        """Repeat a call that may be repeated until the server answers it, with growing pauses.

        Refusals (4xx) are raised at once; outages, 5xx, 429 and lost replies are waited out, for at most
        `give_up_after` seconds (None: for as long as it takes). A reply that still cannot be read after a few tries
        is raised, too: that is no outage, and does not end by waiting.
        """
        unreadable = 0
        deadline = None if give_up_after is None else time.monotonic() + give_up_after
        for pause in growing_pauses(first_pause, longest_pause):
            try:
                return await self.send(call)
            except ServerUnreachable as error:
                unreadable += isinstance(error, ReplyUnreadable)
                is_late = deadline is not None and time.monotonic() + pause > deadline
                if is_late or unreadable >= UNREADABLE_TRIES:
                    raise
            except ApiError as error:
                if not error.is_server_fault or (deadline is not None and time.monotonic() + pause > deadline):
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses never end")


def growing_pauses(first: float = 0.2, longest: float = 15.0) -> Iterator[float]:
    """Seconds between attempts at something that may be repeated, doubling up to a limit, without end."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 2, longest)
