"""The registry of endpoints.

A module under `routes/` decorates its handlers; importing the module registers them. A name may have several versions:
a call gets the newest one that is not newer than the version in its path.

    @endpoint("tasks.get_by_id")
    async def get_by_id(call: Call, data: Fields) -> Reply: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from .calls import Call
    from .fields import Fields

Version = tuple[int, int]
Reply = dict[str, Any]
Handler = Callable[["Call", "Fields"], Awaitable[Any]]

#: What we report as our API version and treat calls without a version as.
NEWEST: Version = (2, 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One version of one endpoint."""

    name: str
    since: Version
    handler: Handler
    auth: bool = True  # False: answered without credentials; identity may be absent
    roles: frozenset[str] | None = None  # None: every role
    batch: bool = False  # accepts application/json-lines
    keep_nan: bool = False  # NaN in the body reaches the handler instead of becoming null


_endpoints: dict[str, list[Endpoint]] = {}


def endpoint(
    name: str,
    *,
    since: str = "2.1",
    auth: bool = True,
    roles: frozenset[str] | None = None,
    batch: bool = False,
    keep_nan: bool = False,
) -> Callable[[Handler], Handler]:
    """Register the decorated coroutine function as the handler of `<service>.<action>`."""

    def register(handler: Handler) -> Handler:
        entry = Endpoint(
            name=name,
            since=parse_version(since),
            handler=handler,
            auth=auth,
            roles=roles,
            batch=batch,
            keep_nan=keep_nan,
        )
        versions = [known for known in _endpoints.get(name, []) if known.since != entry.since]
        _endpoints[name] = sorted([*versions, entry], key=lambda known: known.since, reverse=True)
        return handler

    return register


def find(name: str, version: Version) -> Endpoint:
    """The newest version of the endpoint that is not newer than the call's."""
    for candidate in _endpoints.get(name, ()):
        if candidate.since <= version:
            return candidate
    raise errors.ApiError(404, 0, f"Unable to find endpoint for name {name} and version {version[0]}.{version[1]}")


def names() -> list[str]:
    """Every registered endpoint."""
    return sorted(_endpoints)


def parse_version(text: str) -> Version:
    """`2.23` as numbers that compare."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def load_all() -> None:
    """Import the modules under `routes/`, which registers everything."""
    from . import routes

    routes.load()
