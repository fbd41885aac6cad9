"""The writer thread: changes are committed together and fail alone, and what they mean is told after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from apiserver import errors
from apiserver.store.database import Database, Transaction
from apiserver.store.schema import setting


def run(path: Path, story: Callable[[Database], Awaitable[None]]) -> None:
    async def tell() -> None:
        db = Database(f"sqlite:///{path / 'server.db'}")
        await db.open()
        try:
            await story(db)
        finally:
            await db.close()

    asyncio.run(tell())


def put(name: str) -> Callable[[Transaction], str]:
    def change(tx: Transaction) -> str:
        tx.execute(sa.insert(setting).values(name=name, value="x"))
        tx.announce(name)
        return name

    return change


async def names(db: Database) -> list[str]:
    return await db.read(lambda tx: sorted(tx.execute(sa.select(setting.c.name)).scalars()))


def test_a_write_is_seen_by_the_next_read(tmp_path: Path) -> None:
    async def story(db: Database) -> None:
        for number in range(20):
            await db.write(put(str(number)))
            assert str(number) in await names(db)

    run(tmp_path, story)


def test_a_change_that_fails_undoes_itself_and_not_its_neighbours(tmp_path: Path) -> None:
    def refused(tx: Transaction) -> None:
        put("half")(tx)
        raise errors.INVALID_TASK_ID(id="x")

    async def story(db: Database) -> None:
        told: list[object] = []
        db.subscribe(told.append)
        changes: list[Any] = [put("a"), refused, put("b"), refused, put("c")]
        results = await asyncio.gather(*(db.write(change) for change in changes), return_exceptions=True)
        assert [result for result in results if isinstance(result, str)] == ["a", "b", "c"]
        assert [str(result)[:7] for result in results if isinstance(result, Exception)] == ["400/101"] * 2
        assert await names(db) == ["a", "b", "c"]
        assert told == ["a", "b", "c"]

    run(tmp_path, story)


def test_what_a_change_means_is_told_before_its_caller_goes_on(tmp_path: Path) -> None:
    async def story(db: Database) -> None:
        told: list[object] = []
        db.subscribe(told.append)
        await db.write(put("a"))
        assert told == ["a"]

    run(tmp_path, story)


def test_nothing_is_acknowledged_that_a_broken_transaction_lost(tmp_path: Path) -> None:
    def break_the_transaction(tx: Transaction) -> None:
        put("lost")(tx)
        tx.connection.exec_driver_sql("ROLLBACK")

    async def story(db: Database) -> None:
        changes = [put("before"), break_the_transaction, put("after")]
        results = await asyncio.gather(*(db.write(change) for change in changes), return_exceptions=True)
        assert isinstance(results[1], Exception)
        await db.write(put("kept"))
        acknowledged = [result for result in results if isinstance(result, str)]
        assert await names(db) == sorted([*acknowledged, "kept"])

        with pytest.raises((errors.ApiError, sa.exc.SQLAlchemyError)):
            await db.write(break_the_transaction)
        await db.write(put("kept too"))
        assert "lost" not in await names(db)

    run(tmp_path, story)


def test_a_mistake_in_a_change_reaches_its_caller_and_the_next_one_works(tmp_path: Path) -> None:
    def mistaken(tx: Transaction) -> None:
        put("half")(tx)
        raise KeyError("a mistake")

    async def story(db: Database) -> None:
        with pytest.raises(KeyError):
            await db.write(mistaken)
        await db.write(put("kept"))
        with pytest.raises(sa.exc.IntegrityError):
            await db.write(put("kept"))
        results = await asyncio.gather(*(db.write(put(name)) for name in ("a", "kept", "b")), return_exceptions=True)
        assert [result for result in results if isinstance(result, str)] == ["a", "b"]
        assert await names(db) == ["a", "b", "kept"]

    run(tmp_path, story)


def test_many_writers_at_once_are_all_served(tmp_path: Path) -> None:
    async def story(db: Database) -> None:
        await asyncio.gather(*(db.write(put(str(number))) for number in range(300)))
        assert len(await names(db)) == 300

    run(tmp_path, story)


def test_a_caller_that_gave_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def story(db: Database) -> None:
        given_up = asyncio.ensure_future(db.write(put("given up")))
        await asyncio.sleep(0)
        given_up.cancel()
        await db.write(put("a"))
        assert "a" in await names(db)

    run(tmp_path, story)


def test_a_closed_database_takes_nothing_more(tmp_path: Path) -> None:
    async def story(db: Database) -> None:
        await db.close()
        with pytest.raises(errors.ApiError, match="500/100"):
            await db.write(put("late"))

    run(tmp_path, story)
