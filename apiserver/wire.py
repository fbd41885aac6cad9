"""What goes over the wire: reading a request, and the envelope of a reply.

Everything here is pure: bytes and header values in, values or bytes out. The rules are those of the ClearML API: one
handler for GET, POST and PUT; a JSON object in the body whatever the Content-Type says; query arguments merged over it;
JSON lines for batches; and one envelope for every answer, also for errors, with the HTTP status equal to `result_code`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from . import errors
from .endpoints import NEWEST, Version
from .errors import ApiError

__all__ = ["ApiError", "Path", "error_reply", "parse_batch", "parse_body", "parse_path", "reply", "to_bytes"]

JSON_LINES = "application/json-lines"
FORM = "application/x-www-form-urlencoded"

_PATH = re.compile(r"(?:/v(?P<major>\d+)(?:\.(?P<minor>\d+))?)?/(?P<name>[A-Za-z_]\w*\.[A-Za-z_]\w*)/?", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Path:
    """`/v2.23/tasks.get_by_id` taken apart; `version` is what handlers compare, `requested` what the envelope shows."""

    name: str
    version: Version
    requested: str


def parse_path(path: str) -> Path:
    """Read an endpoint path; no version means the newest, and a newer one than ours is taken as the newest."""
    path = path.removeprefix("/api") if path.startswith("/api/") else path
    found = _PATH.fullmatch(path)
    if found is None:
        raise errors.ApiError(400, 0, f"Invalid request path {path}")
    if found["major"] is None:
        return Path(found["name"], NEWEST, f"{NEWEST[0]}.{NEWEST[1]}")
    version = (int(found["major"][:9]), int((found["minor"] or "0")[:9]))
    return Path(found["name"], min(version, NEWEST), f"{version[0]}.{version[1]}")


def parse_body(body: bytes, content_type: str, query: str, *, keep_nan: bool = False) -> dict[str, Any]:
    """The fields of a call: the body, with the query merged over it."""
    values: dict[str, Any] = {}
    if body.strip():
        if content_type == FORM and not body.lstrip().startswith((b"{", b"[", b'"')):
            values = parse_query(body.decode("utf-8", "replace"))
        else:
            values = _parse_object(body, keep_nan)
    if query:
        _merge(values, parse_query(query))
    return values


def _parse_object(body: bytes, keep_nan: bool) -> dict[str, Any]:
    parsed = parse_json(body, keep_nan=keep_nan)
    if not isinstance(parsed, dict):
        raise BadBody("request body must be a JSON object")
    return parsed


class BadBody(ApiError):
    """A body that is not JSON: the connection is closed too, because its framing can no longer be trusted."""

    def __init__(self, message: str) -> None:
        super().__init__(400, 0, "bad request", detail=message, headers={"connection": "close"})


def parse_json(body: bytes, *, keep_nan: bool = False) -> Any:
    """JSON text; the NaN and Infinity that Python clients emit become null unless they are wanted."""
    try:
        return json.loads(body) if keep_nan else json.loads(body, parse_constant=lambda _name: None)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"failed parsing JSON: {error}") from None


def parse_batch(body: bytes, *, keep_nan: bool = False) -> list[Any]:
    """The lines of a batch; blank ones are skipped, whether each is an object is the endpoint's question."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    items: list[Any] = []
    for number, line in enumerate(lines):
        try:
            items.append(json.loads(line) if keep_nan else json.loads(line, parse_constant=lambda _name: None))
        except (ValueError, RecursionError) as error:
            raise errors.BAD_BATCH_ITEM(str(error), index=number) from None
    return items


def parse_query(query: str) -> dict[str, Any]:
    """Query arguments as fields: repeated keys and `key[]` are lists, dotted keys nest, digits are numbers."""
    values: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        *parents, leaf = key.removesuffix("[]").split(".")
        target = values
        for parent in parents:
            below = target.setdefault(parent, {})
            if not isinstance(below, dict):
                raise errors.BAD_REQUEST("query arguments contradict each other", argument=key)
            target = below
        value = _query_value(text)
        if leaf not in target:
            target[leaf] = [value] if key.endswith("[]") else value
        elif isinstance(target[leaf], list):
            target[leaf].append(value)
        else:
            target[leaf] = [target[leaf], value]
    return values


def _query_value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return int(text) if _INTEGER.fullmatch(text) else text


def _merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What an envelope says about the call it answers."""

    id: str
    trx: str
    name: str
    requested: str
    actual: str


def reply(meta: Meta, data: Mapping[str, Any]) -> dict[str, Any]:
    """The envelope of a call that succeeded."""
    return {"meta": _meta(meta, 200, 0, "OK", {}), "data": data}


def error_reply(meta: Meta, error: ApiError) -> dict[str, Any]:
    """The envelope of a call that was refused."""
    return {"meta": _meta(meta, error.code, error.subcode, error.text, error.data), "data": {}}


def _meta(meta: Meta, code: int, subcode: int, text: str, data: Mapping[str, object]) -> dict[str, Any]:
    return {
        "id": meta.id,
        "trx": meta.trx,
        "endpoint": {
            "name": meta.name,
            "requested_version": meta.requested,
            "actual_version": meta.actual,
        },
        "result_code": code,
        "result_subcode": subcode,
        "result_msg": text,
        "error_stack": None,
        "error_data": data,
    }


def to_bytes(value: Any) -> bytes:
    """JSON that never says NaN or Infinity."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str).encode()
    except ValueError:
        return json.dumps(without_nan(value), separators=(",", ":"), allow_nan=False, default=str).encode()


def without_nan(value: Any, *, instead: float | None = None) -> Any:
    """The same value with every NaN and Infinity replaced."""
    if isinstance(value, float):
        return value if math.isfinite(value) else instead
    if isinstance(value, dict):
        return {key: without_nan(item, instead=instead) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item, instead=instead) for item in value]
    return value
