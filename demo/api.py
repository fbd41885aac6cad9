"""A small client of the API server: one kept connection, JSON in and out, errors as exceptions."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class ApiError(Exception):
    """The server's refusal of one call: what was called, its codes and its own words."""

    def __init__(self, endpoint: str, code: int, subcode: int, message: str) -> None:
        super().__init__(f"{endpoint}: {code}/{subcode} {message}")
        self.code = code
        self.subcode = subcode


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where the server is and who we are there: the part of `clearml.conf` that a client needs."""

    api_server: str
    files_server: str
    access_key: str
    secret_key: str

    @classmethod
    def from_file(cls, path: Path) -> Account:
        """Read the `clearml.conf` that the server wrote."""
        from pyhocon import ConfigFactory

        api = ConfigFactory.parse_string(path.read_text())["api"]
        return cls(
            api_server=api["api_server"],
            files_server=api.get("files_server", ""),
            access_key=api["credentials.access_key"],
            secret_key=api["credentials.secret_key"],
        )


class Api:
    """Calls `service.action` endpoints; logs in at the first call. Not for several threads at once."""

    def __init__(self, account: Account, *, timeout_seconds: float = 30.0) -> None:
        self.account = account
        address = urlsplit(account.api_server)
        self._connection = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port or 8008, timeout=timeout_seconds
        )
        self._token = ""

    def __call__(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """Call one endpoint and answer its `data`."""
        if not self._token:
            self._token = self._request("auth.login", {}, self._basic())["token"]
        return self._request(endpoint, fields, f"Bearer {self._token}")

    def close(self) -> None:
        self._connection.close()

    def _basic(self) -> str:
        pair = f"{self.account.access_key}:{self.account.secret_key}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _request(self, endpoint: str, fields: dict[str, Any], authorization: str) -> dict[str, Any]:
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        body = json.dumps(fields)
        try:
            reply = self._exchange(endpoint, body, headers)
        except (http.client.HTTPException, OSError):
            # A kept connection that the server has closed meanwhile: once more on a fresh one.
            self._connection.close()
            reply = self._exchange(endpoint, body, headers)
        meta = reply["meta"]
        if meta["result_code"] != 200:
            raise ApiError(endpoint, meta["result_code"], meta["result_subcode"], meta["result_msg"])
        data: dict[str, Any] = reply["data"]
        return data

    def _exchange(self, endpoint: str, body: str, headers: dict[str, str]) -> dict[str, Any]:
        self._connection.request("POST", f"/{endpoint}", body=body, headers=headers)
        reply: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return reply


def console_events(api: Api, task: str, *, after: int = 0) -> list[dict[str, Any]]:
    """All log events of a task that are younger than `after` (epoch ms), oldest first, however many pages it takes."""
    found: list[dict[str, Any]] = []
    while True:
        page = api(
            "events.get_task_log",
            task=task,
            batch_size=5000,
            navigate_earlier=False,
            order="asc",
            from_timestamp=after,
        )["events"]
        if not page:
            return found
        found += page
        after = int(page[-1]["timestamp"])


def console_text(api: Api, task: str, *, level: str = "debug") -> str:
    """What a task printed, as the server has it (without the notices of the agent)."""
    events = console_events(api, task)
    return "".join(ended(event["msg"]) for event in events if event.get("level", "").lower() == level)


def ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
