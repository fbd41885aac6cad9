"""Our server as a ClearML Server would look: everything passes, but none of its extensions is announced or used."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from support.http_stub import envelope, http_stub

EXTENSION_FIELDS = ("wait", "peek", "claim", "queues", "known", "watch")
#: What ClearML sells with its Enterprise plan.
MISSING = ("workers.get_runtime_properties", "workers.set_runtime_properties")


@contextmanager
def plain_server(upstream: str) -> Iterator[tuple[str, Counter[str]]]:
    """Yields the URL to use instead of `upstream`, and a count of the calls by endpoint."""
    address = urlsplit(upstream)
    calls: Counter[str] = Counter()

    def forward(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        endpoint = path.lstrip("/")
        calls[endpoint] += 1
        if endpoint == "server.info":
            return envelope({"version": "2.3.0", "build": "", "commit": "", "api_version": "2.34"})
        if endpoint in MISSING:
            return envelope(code=404, message=f"Unable to find endpoint for name {endpoint}")
        if body.startswith(b"{") and endpoint in ("queues.get_next_task", "tasks.started"):
            used = [field for field in EXTENSION_FIELDS if field in json.loads(body)]
            assert not used, f"{endpoint} with {used}, which a ClearML Server does not know"
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            passed = {name: value for name, value in headers.items() if name.lower() not in ("host", "connection")}
            connection.request("POST", path, body=body, headers=passed)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    with http_stub(forward) as url:
        yield url, calls
