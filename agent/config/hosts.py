"""The addresses of one ClearML installation, derived from each other by the conventions its servers follow."""

from __future__ import annotations

import re

_PORTS = {"api": "8008", "web": "8080", "files": "8081"}
_PREFIXES = {"api": "api", "web": "app", "files": "files"}
_PARTS = re.compile(r"^(?P<scheme>https?://)?(?P<host>[^/:]+|\[[^\]]+\])(?::(?P<port>\d+))?(?P<path>/.*)?$")


def derived(url: str, wanted: str) -> str:
    """The address of `wanted` ("api", "web" or "files") beside `url`; empty where no convention says what it is.

    Either the host begins with `api.`, `app.` or `files.` (also `demoapi.` and so on), or the port is 8008, 8080 or
    8081.
    """
    found = _PARTS.match(url.strip())
    if not found:
        return ""
    scheme, host, port = found["scheme"] or "http://", found["host"], found["port"]
    if port in _PORTS.values():
        return f"{scheme}{host}:{_PORTS[wanted]}"
    first, dot, rest = host.partition(".")
    for prefix in _PREFIXES.values():
        if dot and first.endswith(prefix) and first.removesuffix(prefix) in ("", "demo"):
            tail = f":{port}" if port else ""
            return f"{scheme}{first.removesuffix(prefix)}{_PREFIXES[wanted]}.{rest}{tail}"
    return ""
