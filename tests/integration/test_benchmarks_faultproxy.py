"""The proxy that fails on request, in front of a small real HTTP server."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from benchmarks.faultproxy import Fault, FaultProxy


class Counting(http.server.BaseHTTPRequestHandler):
    """Remembers every body and answers it."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[http.server.ThreadingHTTPServer]:
    Counting.bodies = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(upstream: http.server.ThreadingHTTPServer) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{upstream.server_port}") as running:
        yield running


@pytest.fixture
def connection(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", int(proxy.url.rpartition(":")[2]), timeout=20)) as opened:
        yield opened


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", "/tasks.ping?x=1", body=body)
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_requests_pass_on_one_kept_connection_and_are_counted(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    assert [post(connection, body) for body in (b"one", b"x" * 200_000)] == [(200, b"one"), (200, b"x" * 200_000)]
    assert [exchange.path for exchange in proxy.exchanges] == ["/tasks.ping", "/tasks.ping"]


def test_errors_come_before_and_after_the_effect_in_turns(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    proxy.fail(Fault.ERROR_BEFORE, Fault.ERROR_AFTER)
    assert [post(connection, body)[0] for body in (b"one", b"two", b"three", b"four")] == [500] * 4
    assert Counting.bodies == [b"two", b"four"]
    proxy.recover()
    assert post(connection, b"five") == (200, b"five")


@pytest.mark.parametrize(("fault", "effect"), [(Fault.HANG_BEFORE, []), (Fault.HANG_AFTER, [b"one"])])
def test_a_hanging_request_is_never_answered_and_its_connection_closed(
    proxy: FaultProxy, connection: http.client.HTTPConnection, fault: Fault, effect: list[bytes]
) -> None:
    proxy.fail(fault)
    connection.request("POST", "/x", body=b"one")
    threading.Timer(0.2, proxy.recover).start()
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    assert Counting.bodies == effect


def test_a_watched_text_is_noted_when_it_has_been_delivered(
    proxy: FaultProxy, connection: http.client.HTTPConnection
) -> None:
    proxy.watch("needle")
    proxy.fail(Fault.ERROR_BEFORE)
    post(connection, b"a needle")
    assert proxy.seen("needle") is None
    proxy.recover()
    post(connection, b"a needle again")
    assert proxy.seen("needle")
