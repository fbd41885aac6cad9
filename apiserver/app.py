"""The server as a value: `create_app(config)` gives a Starlette application that is complete and not yet running.

`Services` is what handlers share: the database, who may call, who waits for what, the workers seen. It is opened and
closed by the application's lifespan, or with `async with` by a runner that has things to do in between (`server.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from . import clock, endpoints
from .auth import Authenticator, load_secret
from .config import ServerConfig
from .dispatch import Dispatcher
from .housekeeping import Housekeeper
from .scroll import ScrollIds
from .store import bootstrap
from .store.database import Database
from .waiting import WaitingRoom
from .web_page import page_routes
from .workers import Workers


class Services:
    """Everything a handler may reach, by name."""

    def __init__(self, config: ServerConfig, *, now: clock.Clock = clock.system_clock) -> None:
        self.config = config
        self.now = now
        self.db = Database(config.database, now=now)
        self.auth = Authenticator(self.db, config, now=now)
        self.waiting = WaitingRoom(reservation_seconds=config.reservation_seconds)
        self.workers = Workers(self.db, now=now)
        self.scroll = ScrollIds()
        self.housekeeper = Housekeeper(self.db, self.workers, config)
        self.db.subscribe(self.waiting.notice)

    async def __aenter__(self) -> Services:
        self.config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = load_secret(self.config.data / "token.secret")
        await self.db.open()
        await self.db.write(bootstrap.ensure)
        await self.auth.open(secret)
        self.scroll.open(secret)
        await self.workers.open()
        self.housekeeper.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.waiting.close()
        await self.housekeeper.stop()
        await self.workers.flush()
        await self.db.close()


def create_app(config: ServerConfig, *, now: clock.Clock = clock.system_clock) -> Starlette:
    """The API server; its `Services` are at `app.state.services`."""
    endpoints.load_all()
    services = Services(config, now=now)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with services:
            yield

    app = Starlette(
        routes=[Route("/health", _health), *page_routes(), Mount("/", Dispatcher(services))], lifespan=lifespan
    )
    app.state.services = services
    return app


async def _health(request: Request) -> Response:
    """For probes: answers when the database does, and says how many calls wait for a task."""
    services: Services = request.app.state.services
    await services.db.read(lambda tx: tx.now)
    return JSONResponse({"status": "ok", "waiting": services.waiting.parked})
