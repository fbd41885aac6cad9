"""The SDK forks while it holds connections: what parent and child share must not be a connection of ours."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest
from support.apiserver import ServerProcess


def _connection_after_a_call(url: str, headers: dict[str, str]) -> str:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request("POST", "/debug.ping", body=json.dumps({}), headers=headers)
        reply = connection.getresponse()
        reply.read()
        return "closed" if reply.will_close else "kept"
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "then"),
    [
        ({"X-ClearML-Client": "clearml-2.1.12"}, "closed"),
        ({"X-Trains-Client": "clearml-1.0"}, "closed"),
        ({"X-ClearML-Agent": "gpufleet-0.1.0"}, "kept"),
        ({}, "kept"),
    ],
    ids=["sdk", "old sdk", "agent", "anybody"],
)
def test_a_connection_is_kept_except_for_a_client_that_forks(
    server: ServerProcess, headers: dict[str, str], then: str
) -> None:
    assert _connection_after_a_call(server.api, headers) == then


def test_the_file_server_keeps_no_connection(server: ServerProcess) -> None:
    address = urlsplit(server.files)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request("GET", "/health")
        reply = connection.getresponse()
        reply.read()
        assert reply.will_close
    finally:
        connection.close()
