"""One HTTP exchange with the API server: keep-alive connections, deadlines, proxies, and an honest account of failure.

`http.client` rather than `requests`: an idle agent has to fit in 22 MB and `requests` alone costs 12
(docs/decisions/0001). Nothing is retried here, because a repeated request can have a second effect; callers know
which of theirs may be repeated. A failure is one of two kinds: `ServerUnreachable` (the server cannot have acted) and
`ReplyLost` (it may have).
"""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from agent.errors import ConfigError, ReplyLost, ServerUnreachable

if TYPE_CHECKING:
    import ssl

IDLE_CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Reply:
    """Status code and body of one answer; `content_type` without parameters, in lower case."""

    status: int
    body: bytes
    content_type: str


class Contact:
    """Whether the server answers at present: `is_up` (None: nothing was tried yet), since when, and if not, why not."""

    def __init__(self) -> None:
        self.is_up: bool | None = None
        self.since = time.time()
        self.error = ""

    def found(self, error: str = "") -> None:
        """An exchange has ended with an answer, or with this error."""
        if self.is_up is not (not error):
            self.is_up, self.since = not error, time.time()
        self.error = error


class Abort:
    """Lets another thread give up an exchange that is under way: its thread gets ReplyLost at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def watch(self, connection: http.client.HTTPConnection | None) -> None:
        """The exchange now uses this connection (None: no longer any)."""
        with self._lock:
            self._connection = connection
            if self._aborted and connection is not None:
                _shut(connection)

    @property
    def is_wanted(self) -> bool:
        return self._aborted

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._connection is not None:
                _shut(self._connection)


class Transport:
    """Sends requests to one base URL; safe to use from several threads at once.

    `connect_timeout` and the per-call `timeout` are seconds. `verify` is True, False or the path of a CA bundle.
    `proxy` is the URL of an HTTP proxy or None.
    """

    def __init__(
        self, base_url: str, *, connect_timeout: float = 3.0, verify: bool | str = True, proxy: str | None = None
    ) -> None:
        url = urlsplit(base_url.rstrip("/"))
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(
                f"api.api_server is not an http(s) URL: {base_url!r}", hint="Write it like http://host:8008"
            )
        self.base_url = base_url.rstrip("/")
        self.contact = Contact()
        self._url = url
        self._connect_timeout = connect_timeout
        self._verify = verify
        self._proxy = urlsplit(proxy) if proxy else None
        plain_proxy = self._proxy if url.scheme == "http" else None  # a tunnel is opened with headers of its own
        self._extra_headers = _proxy_headers(plain_proxy) if plain_proxy else {}
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, timeout: float, abort: Abort | None = None
    ) -> Reply:
        """POST `body` to `path` (begins with a slash) and return the whole answer.

        Raises ServerUnreachable when the request cannot have been acted upon, ReplyLost when it can.
        """
        connection = self._checkout()
        sent = False
        try:
            if connection.sock is None:
                connection.timeout = self._connect_timeout
                connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            if abort is not None:
                abort.watch(connection)
            sent = True  # from the first byte on, the server may have acted
            connection.request("POST", self._target(path), body=body, headers={**headers, **self._extra_headers})
            response = connection.getresponse()
            payload = response.read()
            if abort is not None:
                abort.watch(None)
        except (OSError, http.client.HTTPException) as error:
            self._discard(connection)
            if not (self._closed or (abort is not None and abort.is_wanted)):  # else it says nothing of the server
                self.contact.found(_cause(error))
            what = f"{self.base_url} ({path.lstrip('/')}): {_cause(error)}"
            if sent:
                raise ReplyLost(f"no reply from the API server {what}") from error
            raise ServerUnreachable(
                f"cannot reach the API server {what}", hint="Is api.api_server right, and is the server running?"
            ) from error
        self.contact.found()
        self._checkin(connection, keep=not response.will_close)
        content_type = (response.getheader("Content-Type") or "").split(";")[0].strip().lower()
        return Reply(response.status, payload, content_type)

    def close(self) -> None:
        """End every connection; a thread that waits for an answer gets ReplyLost at once."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:  # their threads close them
                _shut(connection)
        for connection in idle:
            connection.close()

    def _checkout(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise ServerUnreachable("the connection to the API server was closed")
            while self._idle:
                connection = self._idle.pop()
                if _is_usable(connection):
                    self._busy.add(connection)
                    return connection
                connection.close()
            connection = self._new_connection()
            self._busy.add(connection)
            return connection

    def _checkin(self, connection: http.client.HTTPConnection, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if keep and not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _discard(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _new_connection(self) -> http.client.HTTPConnection:
        url, proxy = self._url, self._proxy
        first = proxy or url
        host, port = first.hostname or "", first.port
        if url.scheme == "http":
            return http.client.HTTPConnection(host, port)
        connection = http.client.HTTPSConnection(host, port, context=_tls_context(self._verify))
        if proxy is not None:
            connection.set_tunnel(url.hostname or "", url.port or 443, headers=_proxy_headers(proxy))
        return connection

    def _target(self, path: str) -> str:
        if self._proxy is not None and self._url.scheme == "http":
            return f"{self.base_url}{path}"
        return f"{self._url.path}{path}"


def _tls_context(verify: bool | str) -> ssl.SSLContext:
    import ssl  # only for https servers

    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    from base64 import b64encode

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + b64encode(pair.encode()).decode()}


def _is_usable(connection: http.client.HTTPConnection) -> bool:
    """A connection the server has closed meanwhile is readable; using it would lose a request."""
    sock = connection.sock
    return sock is not None and not select.select([sock], [], [], 0)[0]


def _shut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is None:
        return
    try:
        # not SSLSocket.shutdown, which lets a thread that is just writing go on in plain text
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy that the usual variables name for `url` (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    excluded = _either(environ, "no_proxy")
    for entry in (part.strip().lower().lstrip(".") for part in excluded.split(",")):
        if entry and (entry in ("*", host) or host.endswith(f".{entry}")):
            return None
    return _either(environ, f"{parts.scheme}_proxy") or _either(environ, "all_proxy") or None


def _either(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""
