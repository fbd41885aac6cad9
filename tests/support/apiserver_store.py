"""The server's store without the server: a database in a folder and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import make_url

from apiserver.identity import COMPANY
from apiserver.store import bootstrap, migrate, queues, tasks
from apiserver.store.database import Transaction, engine_for
from apiserver.store.task_status import Asked

T = TypeVar("T")

ASKED = Asked(company=COMPANY, user="somebody")
FORCED = Asked(company=COMPANY, user="somebody", force=True)


class Store:
    """`store.do(lambda tx: ...)` runs a change in a transaction of its own; `announced` collects what it announced."""

    def __init__(self, path: Path) -> None:
        self.engine = engine_for(make_url(f"sqlite:///{path / 'server.db'}"), begin="BEGIN IMMEDIATE")
        self.moment = 1_800_000_000.0
        self.announced: list[object] = []
        migrate.upgrade(self.engine)
        self.do(bootstrap.ensure)

    def do(self, change: Callable[[Transaction], T]) -> T:
        """Run one change and commit it."""
        with self.engine.connect() as connection, connection.begin():
            tx = Transaction(connection, self.moment)
            result = change(tx)
        self.announced += tx.announced
        return result

    def queue(self, name: str = "a queue") -> str:
        """A new queue."""
        return self.do(lambda tx: queues.create(tx, name, company=COMPANY, user="somebody"))

    def task(self, **fields: object) -> str:
        """A new draft."""
        values = {"name": "a task", **fields}
        return self.do(lambda tx: tasks.create(tx, values, company=COMPANY, user="somebody"))

    def order(self, queue: str) -> list[str]:
        """The tasks of a queue, first to last."""
        return [entry["task"] for entry in self.do(lambda tx: queues.entries(tx, [queue]))[queue]]

    def status(self, task: str) -> str:
        """The status of a task."""
        return str(self.do(lambda tx: tasks.row(tx, task, COMPANY)["status"]))


@contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """A store in this folder."""
    store = Store(path)
    try:
        yield store
    finally:
        store.engine.dispose()
