"""A call as a handler sees it: who asks, with which version, from where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .endpoints import Version
from .identity import Identity
from .store.database import Session, Transaction

if TYPE_CHECKING:
    from .app import Services

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Call:
    """One request. `batch` holds the items of a JSON-lines body, otherwise None."""

    services: Services
    identity: Identity
    name: str
    version: Version
    authenticated: bool = True
    worker: str = ""  # X-ClearML-Worker: the client's host name
    client: str = ""
    ip: str = ""
    connection: str = ""  # who holds a reservation: this client on this connection
    batch: list[Any] | None = None
    session_cookie: str | None = None  # set by login; empty: removed by logout
    disconnected: Callable[[], asyncio.Future[None]] | None = None

    @property
    def company(self) -> str:
        """The company of the caller."""
        return self.identity.company

    @property
    def user(self) -> str:
        """The user id of the caller."""
        return self.identity.user

    async def read(self, question: Callable[[Session], T]) -> T:
        """Ask the database."""
        return await self.services.db.read(question)

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """Change the database; returns after the commit."""
        return await self.services.db.write(change)
