"""Access to the database: one thread writes, a few read, the event loop waits for neither.

SQLite allows one writer. Rather than let requests fight for its lock, every change is a function that is handed to the
writer thread, which takes all that have come in meanwhile, runs each in a savepoint and commits them together: one
commit serves many calls, and a call is answered only after the commit that contains it. Reads run on their own
connections and see the last commit (WAL).

    task = await db.read(lambda tx: tasks.find(tx, task_id))
    await db.write(lambda tx: tasks.ping(tx, task_id))

With `synchronous=NORMAL` a commit survives the death of the process at any point; the last few may be lost with the
power, never half of one.

What a change means to others (a queue grew, a task changed status) it *announces*; subscribers are called on the event
loop after the commit and before the caller's reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Engine, make_url
from sqlalchemy.sql.base import Executable

from .. import clock, errors
from . import migrate
from .schema import to_json

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A row as a mapping, of columns by name.
Row = Mapping[Any, Any]

MOST_JOBS_PER_COMMIT = 64
READERS = 3


class Session:
    """A connection inside a transaction, and the time at which this question or change happens."""

    __slots__ = ("connection", "moment")

    def __init__(self, connection: Connection, moment: float) -> None:
        self.connection = connection
        self.moment = moment

    @property
    def now(self) -> str:
        """The time as records carry it."""
        return clock.timestamp(self.moment)

    @property
    def now_ms(self) -> int:
        """The time as events carry it."""
        return clock.milliseconds(self.moment)

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one statement (or, with a list of parameters, one for each)."""
        return self.connection.execute(statement, parameters)

    def one(self, statement: Executable) -> sa.RowMapping | None:
        """The first row as a mapping, or None."""
        return self.execute(statement).mappings().first()

    def all(self, statement: Executable) -> Sequence[sa.RowMapping]:
        """All rows as mappings."""
        return self.execute(statement).mappings().all()

    def value(self, statement: Executable) -> Any:
        """The first column of the first row, or None."""
        return self.execute(statement).scalar()


class Transaction(Session):
    """A session that may change things, on the writer thread."""

    __slots__ = ("announced",)

    def __init__(self, connection: Connection, moment: float) -> None:
        super().__init__(connection, moment)
        self.announced: list[object] = []

    def announce(self, event: object) -> None:
        """Tell the subscribers about this after the commit; nobody is told when the change is rolled back."""
        self.announced.append(event)


class _Job:
    __slots__ = ("announced", "change", "error", "future", "result")

    def __init__(self, change: Callable[[Transaction], Any], future: asyncio.Future[Any]) -> None:
        self.change = change
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.announced: list[object] = []


class Database:
    """The database of one server; open it on the event loop that will use it."""

    def __init__(self, url: str, *, now: clock.Clock = clock.system_clock) -> None:
        self._url = parse_url(url)
        self._now = now
        self._subscribers: list[Callable[[object], None]] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="db-read")
        self._writer = threading.Thread(target=self._write_loop, name="db-write", daemon=True)
        self._closed = False

    def subscribe(self, subscriber: Callable[[object], None]) -> None:
        """Call `subscriber` with every announced event, on the event loop, after its commit."""
        self._subscribers.append(subscriber)

    async def open(self) -> None:
        """Create or upgrade the tables and start the writer."""
        self._loop = asyncio.get_running_loop()
        self._write_engine = engine_for(self._url, begin="BEGIN IMMEDIATE")
        self._read_engine = engine_for(self._url, begin="BEGIN")
        await asyncio.to_thread(migrate.upgrade, self._write_engine)
        self._writer.start()

    async def close(self) -> None:
        """Finish what has been handed in, fold the write-ahead log into the database, close every connection."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._read_engine.dispose()
        if self._url.get_backend_name() == "sqlite":
            with self._write_engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        self._write_engine.dispose()

    async def read(self, question: Callable[[Session], T]) -> T:
        """Ask one question on a reading connection; everything in it sees the same commit."""
        return await self._loop.run_in_executor(self._readers, self._ask, question)

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """Make one change; returns after its commit. An exception in it undoes this change alone."""
        if self._closed:
            raise errors.DATABASE_UNAVAILABLE()
        job = _Job(change, self._loop.create_future())
        self._jobs.put(job)
        result: T = await job.future
        return result

    def _ask(self, question: Callable[[Session], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = self._read_engine.connect()
            self._connections.append(connection)
        with connection.begin():
            return question(Session(connection, self._now()))

    def _write_loop(self) -> None:
        connection = self._write_engine.connect()
        while jobs := self._next_jobs():
            try:
                self._commit(connection, jobs)
            except Exception as error:  # the commit itself failed, e.g. the disk is full: none of them happened
                log.exception("write failed", extra={"action": "database.write"})
                for job in jobs:
                    job.error, job.announced = job.error or _as_api_error(error), []
                connection = self._afresh(connection)
            self._loop.call_soon_threadsafe(self._deliver, jobs)
        connection.close()

    def _afresh(self, broken: Connection) -> Connection:
        """A new connection: after a failed commit nobody knows which transaction the old one thinks it is in."""
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            broken.invalidate()
            broken.close()
        return self._write_engine.connect()

    def _next_jobs(self) -> list[_Job]:
        """All changes that wait, at least one; none when the database is being closed."""
        first = self._jobs.get()
        if first is None:
            return []
        jobs = [first]
        while len(jobs) < MOST_JOBS_PER_COMMIT:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
        return jobs

    def _commit(self, connection: Connection, jobs: list[_Job]) -> None:
        """Run the changes and commit them together, each in a savepoint unless it is the only one."""
        if len(jobs) == 1:
            with _refused(jobs[0]), connection.begin():
                self._run(connection, jobs[0])
                _require_transaction(connection)
            return
        with connection.begin():
            for job in jobs:
                try:
                    with connection.begin_nested():
                        self._run(connection, job)
                except Exception as error:
                    job.error = _as_api_error(error)
                _require_transaction(connection)

    def _run(self, connection: Connection, job: _Job) -> None:
        transaction = Transaction(connection, self._now())
        job.result = job.change(transaction)
        job.announced = transaction.announced

    def _deliver(self, jobs: list[_Job]) -> None:
        for job in jobs:
            for event in job.announced:
                for subscriber in self._subscribers:
                    subscriber(event)
        for job in jobs:
            if job.future.cancelled():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


@contextlib.contextmanager
def _refused(job: _Job) -> Iterator[None]:
    """A refusal belongs to whoever asked for the change; it has been undone and the connection is as good as before."""
    try:
        yield
    except errors.ApiError as error:
        if error.code >= 500:
            raise
        job.error, job.announced = error, []


def _require_transaction(connection: Connection) -> None:
    """SQLite may undo everything by itself, e.g. on a full disk, and its driver then commits nothing without a word."""
    if not getattr(connection.connection.driver_connection, "in_transaction", True):
        raise errors.UPDATE_FAILED("the transaction was undone by the database")


def _as_api_error(error: Exception) -> Exception:
    if isinstance(error, sa.exc.OperationalError):
        log.error("database: %s", error, extra={"action": "database.error"})
        return errors.UPDATE_FAILED(str(error.orig))
    return error


def parse_url(text: str) -> sa.URL:
    """The database that is meant; refuses what is none, or for which no driver is installed."""
    try:
        url = make_url(text)
        url.get_dialect().import_dbapi()
    except (sa.exc.ArgumentError, ImportError) as error:
        raise errors.ConfigError(f"cannot use the database URL: {error}") from error
    return url


def engine_for(url: sa.URL, *, begin: str) -> Engine:
    """An engine whose transactions start with `begin` on SQLite."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, json_serializer=to_json, pool_pre_ping=True)
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = sa.create_engine(
        url,
        json_serializer=to_json,
        poolclass=sa.pool.NullPool,
        connect_args={"check_same_thread": False, "timeout": 30},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver starts no transactions of its own
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.connection.cursor().execute(begin).close()  # not through the layers: every call pays for it

    return engine
