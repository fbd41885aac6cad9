# Copyright: (c) 2026, gpufleet developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A ClearML API server as the plugins of this collection talk to it, gpufleet's own or ClearML's."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from http.client import HTTPException
from urllib.error import HTTPError

from ansible.module_utils import urls
from ansible.module_utils.basic import env_fallback

AGENT = "ansible-gpufleet.clearml"
#: Seconds before the second and the third attempt of a call that only reads.
BACK_OFF_SECONDS = (0.5, 1.0)
#: How many rows the server gives at once.
PAGE_SIZE = 500


# --- errors


class ClearmlError(Exception):
    """What failed, on what, and what to try. `may_pass`: the same call may work in a moment."""

    may_pass = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)


class ServerUnreachable(ClearmlError):
    """No answer: the connection failed, or broke."""

    may_pass = True


class CallRefused(ClearmlError):
    """The server answered, and not with what was asked for. `status` and `subcode` are those of the answer."""

    def __init__(self, message: str, hint: str = "", *, status: int = 0, subcode: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status
        self.subcode = subcode
        self.may_pass = status >= 500 or status == 429


# --- options


def connection_spec() -> dict:
    """The options by which a module finds the server, as its documentation fragment `clearml_server` tells them."""
    return {
        "api_server": {"type": "str", "required": True, "fallback": (env_fallback, ["CLEARML_API_HOST"])},
        "access_key": {
            "type": "str",
            "required": True,
            "no_log": False,
            "fallback": (env_fallback, ["CLEARML_API_ACCESS_KEY"]),
        },
        "secret_key": {
            "type": "str",
            "required": True,
            "no_log": True,
            "fallback": (env_fallback, ["CLEARML_API_SECRET_KEY"]),
        },
        "validate_certs": {"type": "bool", "default": True},
        "ca_path": {"type": "path"},
        "request_timeout": {"type": "float", "default": 30.0},
    }


def run(module, work) -> None:
    """Do `work(module, server)` and end the module with the dictionary that it returns, or with the error."""
    try:
        result = work(module, server_for(module.params))
    except ClearmlError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


def server_for(options) -> Server:
    """The server that the options of a plugin name."""
    return Server(
        options["api_server"],
        options["access_key"],
        options["secret_key"],
        validate_certs=options["validate_certs"],
        ca_path=options["ca_path"],
        timeout=options["request_timeout"],
    )


# --- the server


class Server:
    """Calls endpoints of one API server, with a token that is fetched at the first call and again when it has run out.

    `timeout` is seconds for each request. Everything raises ClearmlError.
    """

    def __init__(
        self,
        address: str,
        access_key: str,
        secret_key: str,
        *,
        validate_certs: bool = True,
        ca_path: str | None = None,
        timeout: float = 30.0,
        sleep=time.sleep,
    ) -> None:
        self.address = address.strip().rstrip("/")
        if not re.match(r"https?://[^/]", self.address):
            raise ClearmlError(f"api_server is not an http(s) URL: {address!r}", "Write it like http://host:8008")
        if ca_path and not os.path.exists(ca_path):
            raise ClearmlError(f"ca_path names no file: {ca_path}")
        self._access_key = access_key
        self._secret_key = secret_key
        self._connection = {"validate_certs": validate_certs, "ca_path": ca_path, "timeout": timeout}
        self._sleep = sleep
        self._token = ""
        self._ahead_seconds = 0.0

    def read(self, endpoint: str, **body) -> dict:
        """Call an endpoint that changes nothing; it is repeated a few times when the server has a bad moment."""
        for seconds in BACK_OFF_SECONDS:
            try:
                return self.call(endpoint, **body)
            except ClearmlError as error:
                if not error.may_pass:
                    raise
            self._sleep(seconds)
        return self.call(endpoint, **body)

    def call(self, endpoint: str, **body) -> dict:
        """Call an endpoint once: if the reply is lost, the server may have acted."""
        is_new = self._log_in()
        try:
            return self._exchange(endpoint, body, f"Bearer {self._token}")
        except CallRefused as error:
            if error.status != 401 or is_new:
                raise
        self._token = ""
        self._log_in()
        return self._exchange(endpoint, body, f"Bearer {self._token}")

    def now(self) -> float:
        """Seconds since the epoch by the server's clock, as far as that is known."""
        return time.time() + self._ahead_seconds

    def _log_in(self) -> bool:
        """Have a token; whether it had to be fetched."""
        if self._token:
            return False
        pair = base64.b64encode(f"{self._access_key}:{self._secret_key}".encode()).decode()
        before = time.time()
        try:
            data = self._exchange("auth.login", {}, f"Basic {pair}")
        except CallRefused as error:
            if error.status != 401:
                raise
            raise CallRefused(
                f"the server {self.address} does not accept the credentials with the access key "
                f"{self._access_key!r} ({error})",
                "Check access_key and secret_key, and that they were made on this server",
                status=401,
                subcode=error.subcode,
            ) from error
        if not data.get("token"):
            raise CallRefused(f"the server {self.address} gave no token (auth.login)", _ADDRESS_HINT)
        self._token = data["token"]
        self._ahead_seconds = seconds_ahead(issued_at(self._token), before, time.time())
        return True

    def _exchange(self, endpoint: str, body: dict, authorization: str) -> dict:
        try:
            status, payload = self._post(endpoint, body, authorization)
        except (OSError, HTTPException, urls.ConnectionError, ValueError) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            message = f"cannot reach the server {self.address} ({endpoint}): {reason}"
            if "CERTIFICATE" in reason.upper():
                raise ClearmlError(message, "Name the certificate of its authority as ca_path") from error
            raise ServerUnreachable(message, "Is api_server right, and is the server running?") from error
        return data_in(status, payload, f"{self.address} ({endpoint})")

    def _post(self, endpoint: str, body: dict, authorization: str) -> tuple:
        """Status and bytes of the answer. A redirection is one, too: following it would lose the body."""
        try:
            reply = urls.open_url(
                f"{self.address}/{endpoint}",
                data=json.dumps(body).encode(),
                method="POST",
                headers={"Authorization": authorization, "Content-Type": "application/json"},
                http_agent=AGENT,
                follow_redirects="none",
                use_netrc=False,
                **self._connection,
            )
        except HTTPError as error:
            with error:
                return error.code, error.read()
        with reply:
            return reply.getcode(), reply.read()


_ADDRESS_HINT = "Is api_server the address of the API server (often port 8008), and not that of the web page?"


def data_in(status: int, payload: bytes, where: str) -> dict:
    """The data of an answer; raises CallRefused for one that is a refusal, or that no API server would give."""
    try:
        answer = json.loads(payload)
        meta = answer["meta"]
        code, text = int(meta["result_code"]), str(meta.get("result_msg") or "")
    except (ValueError, TypeError, KeyError) as error:
        if status >= 500:
            raise CallRefused(f"the server {where} answers {status}", status=status) from error
        raise CallRefused(f"the answer of {where} ({status}) is none of an API server", _ADDRESS_HINT) from error
    if status == 200 and code == 200:
        return answer.get("data") or {}
    subcode = int(meta.get("result_subcode") or 0)
    raise CallRefused(f"the server {where} answers {code}/{subcode}: {text}", status=code, subcode=subcode)


def issued_at(token: str) -> float | None:
    """When a JWT was issued, by the clock of the server; None where it does not tell."""
    try:
        claims = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["iat"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def seconds_ahead(issued: float | None, before: float, after: float) -> float:
    """How far the server's clock is ahead of ours, given what it told between `before` and `after`, in full seconds."""
    if issued is None or before - 1 <= issued <= after:
        return 0.0
    return issued + 0.5 - (before + after) / 2


# --- queues


def all_queues(server: Server) -> list:
    """`{id, name, tags}` of every queue, by name."""
    found: list = []
    while True:
        body = {"only_fields": ["id", "name", "tags"], "search_hidden": True, "order_by": ["id"]}
        page = server.read("queues.get_all", page=len(found) // PAGE_SIZE, page_size=PAGE_SIZE, **body)["queues"]
        found += [
            {"id": queue["id"], "name": queue.get("name") or "", "tags": sorted(queue.get("tags") or ())}
            for queue in page
        ]
        if len(page) < PAGE_SIZE:
            return sorted(found, key=lambda queue: natural(queue["name"]))


def queue_named(queues, name: str) -> dict | None:
    """The queue of this name; agents compare names in any letter case, so a name that differs in that is the same."""
    alike = [queue for queue in queues if queue["name"].lower() == name.strip().lower()]
    exact = [queue for queue in alike if queue["name"] == name.strip()]
    return (exact or alike or [None])[0]


def waiting_in(server: Server, queue_id: str) -> int:
    """How many tasks wait in a queue."""
    return int(server.read("queues.get_num_entries", queue=queue_id)["num"])


def natural(text: str) -> list:
    """Text and numbers in turn, so that keys of two texts can be compared piece by piece."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split(r"([0-9]+)", text))]
