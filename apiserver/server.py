"""Running it: one process, one event loop, the API and the file server on two ports.

lock the data directory → bind both ports → open the database → write clearml.conf → serve → stop
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from . import client_config, errors
from .app import Services, create_app
from .client_config import Addresses
from .config import ServerConfig
from .files import create_files_app

log = logging.getLogger(__name__)

#: Connections to the file server are not kept: the SDK forks, and a kept one would be shared by two processes.
_ONE_REQUEST = (("connection", "close"),)
KEEP_ALIVE_SECONDS = 120  # longer than any client's polling interval, so that connections are reused
GRACE_SECONDS = 5
COLLECT_AT = (250, 2, 2000)  # new objects, then collections of the next younger generation
BACKLOG = 2048
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (recognised, not bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What is to be told to whoever started the server."""

    addresses: Addresses
    client_config: Path


def run(config: ServerConfig, *, on_ready: Callable[[Running], None]) -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    _allow_many_connections()
    with (
        _locked(config.data),
        _bound(config.host, config.port) as api,
        _bound(config.host, config.files_port) as files,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(config, api, files, on_ready))


async def _serve(
    config: ServerConfig, api: socket.socket, files: socket.socket, on_ready: Callable[[Running], None]
) -> None:
    stopping = _stop_signals()
    app = create_app(config)
    services: Services = app.state.services
    addresses = Addresses(api=_address(api), files=_address(files))
    async with services:
        await _keep_client_config(services, addresses)
        async with _listening(app, api), _listening(create_files_app(services), files, headers=_ONE_REQUEST):
            _calm_the_collector()
            on_ready(Running(addresses=addresses, client_config=config.client_config))
            await stopping.wait()
            log.info("stopping", extra={"action": "server.stop"})
            services.waiting.close()


def _calm_the_collector() -> None:
    """Many short looks for circular garbage instead of few long ones, and none through what is there from the start.

    With 2,000 waiting agents a look through everything that is alive stops the server for 0.3 s, by default every 20 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


def _stop_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _keep_client_config(services: Services, addresses: Addresses) -> None:
    path = services.config.client_config
    text = client_config.read(path)
    known = client_config.credentials_in(text)
    good = await services.db.write(lambda tx: client_config.good_credentials(tx, known))
    if good != known or not client_config.is_valid(text, addresses):
        client_config.write(path, client_config.render(path, addresses, good))
    path.chmod(0o600)


@contextlib.asynccontextmanager
async def _listening(
    app: ASGIApp, bound: socket.socket, *, headers: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[None]:
    """uvicorn on a bound socket. Its own main loop only wakes up ten times a second to look at flags: left out."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            headers=list(headers),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            backlog=BACKLOG,
        )
    )
    server.config.load()
    server.server_state.default_headers = server.config.encoded_headers  # the loop that is left out does this
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[bound])
    try:
        yield
    finally:
        await server.shutdown(sockets=[bound])


def _address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _name, where = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise errors.ConfigError(f"cannot listen on {host}: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(where)
            bound.listen(BACKLOG)
        except OSError as error:
            raise _cannot_bind(host, port, error) from error
        bound.setblocking(False)
        yield bound


def _cannot_bind(host: str, port: int, error: OSError) -> errors.StartupError:
    if error.errno == errno.EADDRINUSE:
        return errors.AddressInUse(
            f"{host}:{port} is in use", hint="stop what listens there, or choose another with --port and --files-port"
        )
    return errors.StartupError(f"cannot listen on {host}:{port}: {error.strerror}")


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    """The data directory, ours alone."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.chmod(0o700)
        lock = os.open(data / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.ConfigError(f"cannot use data directory {data}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise errors.DataDirectoryInUse(
            f"another server uses {data}", hint="stop it, or choose another directory with --data"
        ) from None
    try:
        yield
    finally:
        os.close(lock)


def _allow_many_connections() -> None:
    """Each waiting agent is an open connection: use what the system lets us."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
