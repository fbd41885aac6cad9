"""Console lines in the database: chunks, one of which stays open for small batches (`events.console` packs them)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from ..events.console import OPEN_CHUNK_BYTES, LogLine, decode, encode, packed, size_of
from ..events.paging import Block, first_after, last_before
from .database import Session, Transaction
from .event_tables import log_batch, log_chunk, log_event_id

#: How long a batch without event ids is remembered as "already stored".
REPEAT_WINDOW_MS = 60_000
_IDS_PER_QUESTION = 500


def add_lines(tx: Transaction, owner: str, lines: Sequence[LogLine]) -> None:
    """Append lines to a task's console."""
    if not lines:
        return
    if sum(map(size_of, lines)) < OPEN_CHUNK_BYTES and (last := _open_chunk(tx, owner)):
        merged = [*decode(last["body"]), *lines]
        tx.execute(log_chunk.update().where(log_chunk.c.id == last["id"]).values(**_row_of(owner, merged)))
        return
    tx.execute(log_chunk.insert(), [_row_of(owner, chunk) for chunk in packed(lines)])


def unseen_ids(tx: Transaction, owner: str, event_ids: Iterable[str]) -> set[str]:
    """Remember the ids of log events; return those that were not known before."""
    wanted = list(dict.fromkeys(event_ids))
    known: set[str] = set()
    for start in range(0, len(wanted), _IDS_PER_QUESTION):
        some = wanted[start : start + _IDS_PER_QUESTION]
        question = sa.select(log_event_id.c.event_id).where(
            log_event_id.c.owner == owner, log_event_id.c.event_id.in_(some)
        )
        known.update(tx.execute(question).scalars())
    new = [event_id for event_id in wanted if event_id not in known]
    if new:
        tx.execute(log_event_id.insert(), [{"owner": owner, "event_id": event_id} for event_id in new])
    return set(new)


def is_repeat(tx: Transaction, owner: str, lines: Sequence[LogLine]) -> bool:
    """Say whether the very same lines, with the same times, came in as one batch within the last minute.

    Clients repeat a request whose reply was lost, and their lines have no ids. Single equal lines are no repeat: a
    task may well print the same thing twice.
    """
    text = hashlib.sha256(owner.encode())
    for line in lines:
        text.update(f"\n{line.worker}\0{line.timestamp}\0{line.level}\0{line.msg}".encode())
    digest = text.hexdigest()
    tx.execute(log_batch.delete().where(log_batch.c.received_ms < tx.now_ms - REPEAT_WINDOW_MS))
    if tx.one(sa.select(log_batch.c.digest).where(log_batch.c.digest == digest)):
        return True
    tx.execute(log_batch.insert().values(digest=digest, received_ms=tx.now_ms))
    return False


def count_lines(session: Session, owner: str) -> int:
    """How many log events a task has."""
    return int(session.value(sa.select(sa.func.sum(log_chunk.c.lines)).where(log_chunk.c.owner == owner)) or 0)


def lines_after(session: Session, owner: str, after: int | None, size: int) -> list[LogLine]:
    """Read a page forwards: the oldest lines that are younger than `after`."""
    question = _outline(owner).order_by(log_chunk.c.first_ms, log_chunk.c.id)
    if after is not None:
        question = question.where(log_chunk.c.last_ms > after)
    return [line for _, line in first_after(_blocks(session, question), after, size)]


def lines_before(session: Session, owner: str, before: int | None, size: int) -> list[LogLine]:
    """Read a page backwards: the youngest lines that are older than `before`, newest first."""
    question = _outline(owner).order_by(log_chunk.c.last_ms.desc(), log_chunk.c.id.desc())
    if before is not None:
        question = question.where(log_chunk.c.first_ms < before)
    return [line for _, line in last_before(_blocks(session, question), before, size)]


def clear_lines(tx: Transaction, owner: str, *, before: int | None) -> int:
    """Delete a task's lines, or those older than `before`; return how many."""
    deleted = 0
    for row in tx.all(_outline(owner)):
        lines = _read(tx, row["id"])
        kept = [line for line in lines if before is not None and line.timestamp >= before]
        deleted += len(lines) - len(kept)
        if not kept:
            tx.execute(log_chunk.delete().where(log_chunk.c.id == row["id"]))
        elif len(kept) < len(lines):
            tx.execute(log_chunk.update().where(log_chunk.c.id == row["id"]).values(**_row_of(owner, kept)))
    return deleted


def delete_console(tx: Transaction, owner: str) -> int:
    """Delete the console of a task; returns how many log events it had."""
    lines = count_lines(tx, owner)
    tx.execute(log_chunk.delete().where(log_chunk.c.owner == owner))
    tx.execute(log_event_id.delete().where(log_event_id.c.owner == owner))
    return lines


def _row_of(owner: str, lines: Sequence[LogLine]) -> Mapping[str, object]:
    times = [line.timestamp for line in lines]
    return {
        "owner": owner,
        "first_ms": min(times),
        "last_ms": max(times),
        "lines": len(lines),
        "size": sum(map(size_of, lines)),
        "body": encode(lines),
    }


def _open_chunk(tx: Transaction, owner: str) -> sa.RowMapping | None:
    question = sa.select(log_chunk.c.id, log_chunk.c.size).where(log_chunk.c.owner == owner)
    last = tx.one(question.order_by(log_chunk.c.id.desc()).limit(1))
    if last is None or last["size"] >= OPEN_CHUNK_BYTES:
        return None
    return tx.one(sa.select(log_chunk.c.id, log_chunk.c.body).where(log_chunk.c.id == last["id"]))


def _outline(owner: str) -> sa.Select[tuple[int, int, int]]:
    return sa.select(log_chunk.c.id, log_chunk.c.first_ms, log_chunk.c.last_ms).where(log_chunk.c.owner == owner)


def _blocks(session: Session, question: sa.Select[tuple[int, int, int]]) -> Iterator[Block[LogLine]]:
    # row by row: the reader stops after the few chunks that fill its page
    for row in session.execute(question).mappings():
        yield Block(low=row["first_ms"], high=row["last_ms"], order=row["id"], read=_reader(session, row["id"]))


def _reader(session: Session, chunk: int) -> Callable[[], list[tuple[int, LogLine]]]:
    return lambda: [(line.timestamp, line) for line in _read(session, chunk)]


def _read(session: Session, chunk: int) -> list[LogLine]:
    return decode(session.value(sa.select(log_chunk.c.body).where(log_chunk.c.id == chunk)))
