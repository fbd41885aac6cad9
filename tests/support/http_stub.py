"""A loopback HTTP server that does what a test tells it: for what a well-behaved server never does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: (path, headers, body) → (status, body); None closes the connection without an answer.
Answer = Callable[[str, dict[str, str], bytes], tuple[int, bytes] | None]


def envelope(data: Any = None, *, code: int = 200, subcode: int = 0, message: str = "OK") -> tuple[int, bytes]:
    meta = {"result_code": code, "result_subcode": subcode, "result_msg": message}
    return code, json.dumps({"meta": meta, "data": data or {}}).encode()


@contextmanager
def http_stub(answer: Answer) -> Iterator[str]:
    """Yields the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = answer(self.path, dict(self.headers), body)
            if reply is None:
                self.close_connection = True
                return
            status, payload = reply
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
