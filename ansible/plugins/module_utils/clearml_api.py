# Copyright: (c) 2026, gpufleet developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the plugins of this collection know about a ClearML API server.

The upper half talks to it (`Server`), the lower half is pure: what a reply says about workers (`workers_in`), and what
durations and times of a playbook mean. It works with gpufleet's own server and with ClearML's; the latter has no
runtime properties in its open-source version (`NoProperties`).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from datetime import datetime
from http.client import HTTPException
from urllib.error import HTTPError

from ansible.module_utils import urls
from ansible.module_utils.basic import env_fallback

AGENT = "ansible-gpufleet.clearml"
#: Seconds before the second and the third attempt of a call that only reads.
BACK_OFF_SECONDS = (0.5, 1.0)
#: How many rows the server gives at once.
PAGE_SIZE = 500

FORCE = "force"
FORCE_WORDS = ("on", "off")


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


class NoProperties(ClearmlError):
    """The server keeps no runtime properties of workers."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the server {address} has no runtime properties of workers, so `force` cannot be set",
            "ClearML's open-source server lacks them; there, force_workers of gpufleet.clearml.clearml_queue opens and "
            "closes a queue for all of its workers",
        )


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


# --- what it is asked


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


def all_workers(server: Server, *, repeat: bool = True) -> list:
    """Every worker on the server's list, as `workers_in` describes them; `repeat`: ask again if the server fails."""
    ask = server.read if repeat else server.call
    return workers_in(ask("workers.get_all", last_seen=0))


def force_of(server: Server, worker: str) -> dict:
    """The runtime property `force` of a worker: `value` (on, off, none) and `seconds_left` (None: until it is changed).

    Raises NoProperties where the server has none.
    """
    try:
        data = server.read("workers.get_runtime_properties", worker=worker)
    except CallRefused as error:
        raise (NoProperties(server.address) if _is_unknown_endpoint(error) else error) from error
    for entry in data.get("runtime_properties") or data.get("properties") or ():
        word = str(entry.get("value") or "").strip().lower()
        if entry.get("key") == FORCE and word in FORCE_WORDS:
            return {"value": word, "seconds_left": entry.get("expiry")}
    return {"value": "none", "seconds_left": None}


def set_force(server: Server, worker: str, word: str, seconds: float | None) -> None:
    """Set the runtime property `force` for some seconds (None: until it is changed), or delete it (`none`)."""
    entry: dict = {"key": FORCE, "value": "" if word == "none" else word}
    if word == "none":
        entry["expiry"] = 0
    elif seconds is not None:
        entry["expiry"] = seconds
    server.call("workers.set_runtime_properties", worker=worker, runtime_properties=[entry])


def _is_unknown_endpoint(error: CallRefused) -> bool:
    return error.status == 404 or (error.status, error.subcode) == (400, 0)


# --- what it says about workers

#: The words of a tag that tells how a worker stands, the gravest last: where several are there, the last one counts.
STANDINGS = ("open", "forced on", "closed", "forced off", "waiting", "cordoned", "draining")
TAKING = ("open", "forced on")
CLOSED = ("closed", "forced off", "cordoned", "draining")
VERSION_TAG = "gpufleet "
DUPLICATE_ID = "duplicate-id"

_STANDING_TAG = re.compile(rf"(?P<standing>{'|'.join(STANDINGS[1:])})(?: until (?P<until>\S+)|: (?P<why>.+))?")
_GPUS = re.compile(r":(?P<shared>d?)gpu(?P<names>[^:]+)(?::\d+)?$")
_SERVICE = ":service:"
_ALL_GPUS = "all"


def workers_in(reply: dict) -> list:
    """The workers of a reply of `workers.get_all`, gpu2 before gpu10."""
    wires = sorted(reply.get("workers") or (), key=lambda wire: natural(wire["id"]))
    parents = parents_of([wire["id"] for wire in wires])
    workers = [worker_in(wire, parents[wire["id"]]) for wire in wires]
    busy = {worker["id"] for worker in workers if worker["task"]}
    busy |= {parents[worker_id] for worker_id in busy}
    for worker in workers:
        worker["runs"] = worker["id"] in busy
        worker["state"] = _state(worker)
    return workers


def worker_in(wire: dict, parent: str = "") -> dict:
    """One worker, without what only its neighbours tell (`runs`, `state`)."""
    tags = sorted(wire.get("tags") or ())
    return {
        "id": wire["id"],
        "host": wire["id"].partition(":")[0],
        "parent": parent or None,
        "ip": wire.get("ip"),
        **standing_in(tags),
        "task": _task_in(wire.get("task") or {}),
        "queues": [queue.get("name") or queue["id"] for queue in wire.get("queues") or ()],
        "tags": tags,
        "system_tags": sorted(wire.get("system_tags") or ()),
        "is_duplicate": DUPLICATE_ID in (wire.get("system_tags") or ()),
        "version": next((tag[len(VERSION_TAG) :] for tag in tags if tag.startswith(VERSION_TAG)), None),
        "gpus": gpus_in(wire["id"], wire.get("machine_stats") or {}),
        "registered": wire.get("register_time"),
        "reported": wire.get("last_report_time") or wire.get("last_activity_time"),
    }


def standing_in(tags) -> dict:
    """How a worker stands, until when and why, as its tags tell."""
    found = [match for match in map(_STANDING_TAG.fullmatch, tags) if match]
    if not found:
        return {"standing": "open", "until": None, "why": None}
    return max(found, key=lambda match: STANDINGS.index(match["standing"])).groupdict()


def gpus_in(worker_id: str, stats: dict) -> dict | None:
    """The GPUs of a worker: `names` from its id, readings (percent, MiB) where the server tells them; None: no GPUs."""
    names = gpu_names(worker_id)
    used, free, usage = (_numbers(stats.get(f"gpu_{key}")) for key in ("memory_used", "memory_free", "usage"))
    read = max(len(usage), len(used))
    if not read and not names:
        return None
    return {
        "names": names,
        "count": read or (None if _ALL_GPUS in names else len(names)),
        "usage_percent": round(sum(usage) / len(usage), 1) if usage else None,
        "memory_used_mib": round(sum(used), 3) if used else None,
        "memory_total_mib": round(sum(used) + sum(free), 3) if used and len(used) == len(free) else None,
    }


def gpu_names(worker_id: str) -> list:
    """The GPUs that the end of an id names."""
    found = _GPUS.search(worker_id)
    return [name for name in found["names"].split(",") if name] if found else []


def parents_of(ids) -> dict:
    """The agent of each sub-worker, as far as it is among the ids; the others have the empty text.

    host:0:service:<task>     a task of the services agent host:0
    host:gpu0,1               a task of the agent host:dgpu0,1,2,3, which shares its GPUs out
    """
    known, sharing = set(ids), {}
    for worker_id in ids:
        found = _GPUS.search(worker_id)
        if found and found["shared"]:
            sharing.setdefault(worker_id[: found.start()], []).append(worker_id)
    return {worker_id: _parent(worker_id, known, sharing) for worker_id in ids}


def _parent(worker_id: str, known: set, sharing: dict) -> str:
    parent, service, _task = worker_id.partition(_SERVICE)
    if service:
        return parent if parent in known else ""
    found = _GPUS.search(worker_id)
    if not found or found["shared"]:
        return ""
    names = gpu_names(worker_id)
    return next((agent for agent in sharing.get(worker_id[: found.start()], ()) if _gives(agent, names)), "")


def _gives(agent: str, names) -> bool:
    """Whether these are all among the agent's GPUs, or instances of them (`0.1` of `0`)."""
    shared = gpu_names(agent)
    return _ALL_GPUS in shared or all(name in shared or name.partition(".")[0] in shared for name in names)


def crew_of(worker_id: str, workers) -> list:
    """The worker and its sub-workers, as far as they are there; sub-workers may outlive their agent for a while."""
    parents = parents_of([worker_id, *(worker["id"] for worker in workers)])
    return [worker for worker in workers if worker_id in (worker["id"], parents[worker["id"]])]


def _task_in(wire: dict) -> dict | None:
    if not wire.get("id"):
        return None
    milliseconds = wire.get("running_time")
    seconds = milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None
    return {"id": wire["id"], "name": wire.get("name") or "", "seconds": seconds}


def _state(worker: dict) -> str:
    if worker["standing"] == "open":
        return "running" if worker["runs"] else "idle"
    return f"running, {worker['standing']}" if worker["runs"] else worker["standing"]


def _numbers(values) -> list:
    listed = values if isinstance(values, list) else [values]
    return [float(value) for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]


def natural(text: str) -> list:
    """Text and numbers in turn, so that keys of two texts can be compared piece by piece."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split(r"([0-9]+)", text))]


# --- durations and times

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_MOMENT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?"
    r"\s*(?P<zone>Z|[+-]\d\d:?\d\d)"
)


def duration_seconds(text: str, option: str = "the duration") -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1d` or several of these together (`1h30m`); more than none."""
    text = str(text).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"([\d.]+)([smhd])", text))
    else:
        raise ClearmlError(f"{option} is no duration: {text!r}", "Write seconds, or 90s, 15m, 2h, 1d, 1h30m")
    if seconds <= 0:
        raise ClearmlError(f"{option} is no time at all: {text!r}", "To end a force, say force: none")
    return seconds


def moment_seconds(text: str, option: str = "the time") -> float:
    """Seconds since the epoch of an ISO 8601 time with an offset, or of a number of such seconds."""
    text = str(text).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    found = _MOMENT.fullmatch(text)
    try:
        if not found:
            raise ValueError("no such text")
        zone = found["zone"].replace("Z", "+0000").replace(":", "")
        whole = f"{found['day']}T{found['minute']}:{found['second'] or '00'}{zone}"
        moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError as error:
        raise ClearmlError(
            f"{option} is no time with an offset: {text!r}",
            "Write it like 2026-11-22T08:00:00+01:00 or 2026-11-22T07:00:00Z",
        ) from error
    return moment + float(f"0.{found['fraction'] or 0}")


def iso_text(seconds: float) -> str:
    """A time as the server writes it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def needs_force(present: dict, word: str, seconds: float | None, *, earlier: float, later: float = 0.0) -> bool:
    """Whether the property `force` has to be set, given what `force_of` told.

    `seconds` is for how long it is wanted (None: until it is changed). What is left of the present one may be that much
    `earlier` or `later` than wanted (seconds) and still does.
    """
    if present["value"] != word:
        return True
    if word == "none":
        return False
    left = present["seconds_left"]
    if seconds is None or left is None:
        return seconds is not left
    return not seconds - earlier <= left <= seconds + later
