"""A server of a few lines, at the boundary of `agent.api.client.Client`: calls go in, replies or failures come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.api.client import AsyncClient, Call

Handler = Callable[[Any], dict[str, Any]]


class FakeClient:
    """Answers each endpoint with its handler; a handler may raise what the real client raises."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = {name.replace("__", "."): handler for name, handler in handlers.items()}
        self.calls: list[tuple[str, Any]] = []

    def send(self, call: Call[Any], abort: object = None) -> Any:
        self.calls.append((call.endpoint, call.body))
        return call.parse(self.handlers[call.endpoint](call.body))

    def sent(self, endpoint: str) -> list[Any]:
        return [body for name, body in self.calls if name == endpoint]


def fake_api(**handlers: Handler) -> tuple[AsyncClient, FakeClient]:
    """An AsyncClient on a FakeClient; `tasks__started=...` handles `tasks.started`."""
    client = FakeClient(**handlers)
    return AsyncClient(client), client  # type: ignore[arg-type]
