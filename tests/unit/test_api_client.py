"""The client against a server that misbehaves in every way the transport has to tell apart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.http_stub import Answer, envelope, http_stub

from agent.api.client import AsyncClient, Client, open_client, plain
from agent.api.transport import proxy_for
from agent.config.schema import ApiSettings
from agent.errors import ApiError, ConfigError, CredentialsRefused, ReplyLost, ServerUnreachable


def settings_for(url: str) -> ApiSettings:
    return ApiSettings(
        api_server=url,
        web_server="",
        files_server="",
        access_key="KEY",
        secret_key="SECRET",
        auth_token="",
        verify_certificate=True,
        default_method="post",
        token_expiration_threshold_seconds=43200.0,
        request_token_expiration_seconds=None,
        connect_timeout_seconds=2.0,
        read_timeout_seconds=2.0,
        max_request_bytes=15_000_000,
    )


def token(life_seconds: float = 86400.0, **claims: Any) -> str:
    payload = {"iat": time.time(), "exp": time.time() + life_seconds, **claims}
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{encoded}.sig"


class Script:
    """Logs in with fresh tokens and answers every other path from `replies`, the last one for ever."""

    def __init__(self, *replies: tuple[int, bytes] | None, token_life: float = 86400.0) -> None:
        self.replies = list(replies) or [envelope({"ok": True})]
        self.token_life = token_life
        self.logins = 0
        self.clock = time.time
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    def __call__(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        if path == "/auth.login":
            self.logins += 1
            now = self.clock()
            return envelope({"token": token(iat=now, exp=now + self.token_life, n=self.logins)})
        self.seen.append((path, headers, body))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def client_on(answer: Answer, **changes: Any) -> Iterator[Client]:
    with http_stub(answer) as url:
        client = open_client(replace(settings_for(url), **changes), name="host", environ={})
        try:
            yield client
        finally:
            client.close()


def test_one_login_serves_many_calls_over_one_connection() -> None:
    script = Script()
    with client_on(script) as client:
        for _ in range(3):
            assert client.call("tasks.ping", {"task": "t"}) == {"ok": True}
    assert script.logins == 1
    assert [path for path, _, _ in script.seen] == ["/tasks.ping"] * 3
    assert json.loads(script.seen[0][2]) == {"task": "t"}
    assert script.seen[0][1]["X-ClearML-Worker"] == "host"


def test_a_401_renews_the_token_once() -> None:
    script = Script(envelope(code=401, subcode=30), envelope({"ok": True}))
    with client_on(script) as client:
        assert client.call("tasks.ping") == {"ok": True}
    assert script.logins == 2
    assert script.seen[0][1]["Authorization"] != script.seen[1][1]["Authorization"]


def test_a_second_401_is_an_error_that_names_the_server() -> None:
    with client_on(Script(envelope(code=401, subcode=30))) as client, pytest.raises(CredentialsRefused):
        client.call("tasks.ping")


def test_refused_credentials_are_told_apart_and_not_shown() -> None:
    with client_on(lambda *_: envelope(code=401, subcode=22)) as client:
        with pytest.raises(CredentialsRefused) as caught:
            client.call("tasks.ping")
        assert "SECRET" not in str(caught.value)


def test_a_short_lived_token_is_not_renewed_before_every_request() -> None:
    script = Script(token_life=600.0)
    with client_on(script) as client:
        for _ in range(5):
            client.call("tasks.ping")
    assert script.logins == 1


@pytest.mark.parametrize("ahead_seconds", [40 * 86400.0, -40 * 86400.0])
def test_a_clock_that_is_wrong_does_not_mean_a_login_for_every_call(ahead_seconds: float) -> None:
    """The server's clock counts, in which the token's life begins when it is issued."""
    script = Script(token_life=86400.0)
    script.clock = lambda: time.time() - ahead_seconds
    with client_on(script) as client:
        for _ in range(5):
            client.call("tasks.ping")
    assert script.logins == 1


def test_an_expiring_token_is_renewed() -> None:
    script = Script(token_life=-1.0)
    with client_on(script) as client:
        client.call("tasks.ping")
        client.call("tasks.ping")
    assert script.logins == 2


def test_a_refusal_carries_the_numbers_of_the_envelope() -> None:
    with client_on(Script(envelope(code=400, subcode=101, message="Invalid task id"))) as client:
        with pytest.raises(ApiError, match="Invalid task id <400/101>") as caught:
            client.call("tasks.get_by_id", {"task": "x"})
        assert caught.value.is_(400, 101)
        assert not caught.value.is_server_fault


def test_a_proxy_page_with_502_may_be_repeated_and_one_with_200_is_no_api_server() -> None:
    with client_on(Script((502, b"<html>bad gateway</html>"))) as client:
        with pytest.raises(ApiError) as caught:
            client.call("tasks.ping")
        assert caught.value.is_server_fault
    with client_on(lambda *_: (200, b"<html>hello</html>")) as client:
        with pytest.raises(ServerUnreachable, match="not a ClearML API server"):
            client.call("tasks.ping")


def test_a_closed_port_cannot_have_had_an_effect() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    client = open_client(settings_for(f"http://127.0.0.1:{port}"), environ={})
    with pytest.raises(ServerUnreachable) as caught:
        client.call("tasks.ping")
    assert not isinstance(caught.value, ReplyLost)


def test_an_answer_that_never_comes_leaves_the_effect_open() -> None:
    with client_on(Script(None)) as client, pytest.raises(ReplyLost):
        client.call("queues.get_next_task")


def test_closing_the_client_wakes_a_thread_that_waits() -> None:
    release = threading.Event()

    def slow(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        if path == "/auth.login":
            return envelope({"token": token()})
        waiting.set()
        release.wait(10)
        return envelope()

    waiting = threading.Event()
    caught: list[BaseException] = []
    with client_on(slow, read_timeout_seconds=30.0) as client:

        def call() -> None:
            try:
                client.call("queues.get_next_task")
            except ReplyLost as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        assert waiting.wait(5)
        client.close()
        thread.join(5)
        release.set()
    assert len(caught) == 1


def test_an_address_that_is_no_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="not an http"):
        open_client(settings_for("localhost:8008"))


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"http_proxy": "http://p:3128"}, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "other,.example.com"}, None),
        ({"https_proxy": "http://p:3128"}, None),
        ({"all_proxy": "http://p:1"}, "http://p:1"),
        ({"http_proxy": "http://p:3128", "no_proxy": "*"}, None),
    ],
)
def test_the_usual_variables_name_the_proxy(environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for("http://api.example.com:8008", environ) == proxy


def test_cancelling_a_held_call_frees_its_thread_at_once() -> None:
    release = threading.Event()
    held = threading.Event()

    def hold(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        if path == "/auth.login":
            return envelope({"token": token()})
        held.set()
        release.wait(10)
        return envelope()

    async def scenario(client: Client) -> float:
        call = asyncio.create_task(AsyncClient(client).send(plain("queues.get_next_task")))
        await asyncio.to_thread(held.wait, 5)
        began = time.monotonic()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await asyncio.get_running_loop().shutdown_default_executor()
        return time.monotonic() - began

    with client_on(hold, read_timeout_seconds=30.0) as client:
        assert asyncio.run(scenario(client)) < 2.0
        release.set()
