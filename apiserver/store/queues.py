"""Queues and what waits in them.

The order of a queue is a sparse number per entry: an append takes the largest plus a stride, a move to the front the
smallest minus one, a move in between the middle of its neighbours; only when the middle is used up is the queue
numbered anew. A task waits in at most one queue. Popping is in `popping.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .. import clock, errors
from ..announcements import EntryGone, QueueChanged, QueueGrew
from ..identity import new_id
from ..query import Document, Entity
from .database import Row, Session, Transaction
from .schema import lease, queue, queue_entry, queue_tombstone, task

STRIDE = 2**20
SHORTEST_NAME = 3
DEFAULT_TAG = "default"
FORCED_OFF = "force_workers:off"


def _document(row: Row, fields: Iterable[str]) -> Document:
    document = {name: row[name] for name in fields if name != "entries" and row[name] is not None}
    for name in ("tags", "system_tags"):
        if name in document:
            document[name] = sorted(document[name])
    return document


QUEUES = Entity(
    table=queue,
    fields={**{column.name: (column,) for column in queue.c}, "entries": ()},
    source=lambda _used: queue,
    document=_document,
    patterns=frozenset({"name"}),
    lists=frozenset({"tags", "system_tags", "id", "metadata.*"}),
    search=frozenset({"id", "name", "display_name"}),
    tolerated=frozenset({"resources"}),
)


# The two questions that every waiting agent asks over and over are put together once.
_DESCRIBED = sa.select(queue.c.id, queue.c.name, queue.c.tags).where(
    queue.c.id.in_(sa.bindparam("ids", expanding=True)), queue.c.company == sa.bindparam("company")
)
_HEADS = (
    sa.select(queue_entry)
    .where(queue_entry.c.queue == sa.bindparam("queue"))
    .order_by(queue_entry.c.pos)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A task that waits, or was just popped."""

    task: str
    queue: str
    added: str

    @property
    def on_the_wire(self) -> Document:
        """As replies show it."""
        return {"task": self.task, "added": self.added}


# --- queues ---


def find(tx: Session, queue_id: str, company: str) -> Document:
    """The queue without its entries; 400/701 when there is none."""
    row = tx.one(sa.select(queue).where(queue.c.id == queue_id, queue.c.company == company))
    if row is None:
        raise errors.INVALID_QUEUE_ID(id=queue_id, company=company)
    return _document(row, queue.c.keys())


def require(tx: Session, queue_id: str, company: str) -> None:
    """Refuse an unknown queue id with 400/701."""
    if tx.value(sa.select(queue.c.id).where(queue.c.id == queue_id, queue.c.company == company)) is None:
        raise errors.INVALID_QUEUE_ID(id=queue_id, company=company)


def described(tx: Session, queue_ids: Sequence[str], company: str) -> dict[str, Document]:
    """`{id, name, tags}` of those of these queues that are or were; the deleted ones with `gone`."""
    rows = tx.execute(_DESCRIBED, {"ids": list(queue_ids), "company": company}).mappings()
    found: dict[str, Document] = {row["id"]: {**row, "tags": sorted(row["tags"])} for row in rows}
    if len(found) < len(queue_ids):
        for tomb in tombstones(tx, [known for known in queue_ids if known not in found], company):
            found[tomb["id"]] = gone(tomb["id"], tomb["name"])
    return found


def gone(queue_id: str, name: str = "") -> Document:
    """A deleted queue as a worker should see it: with a tag that sends it away."""
    return {"id": queue_id, "name": name, "tags": [FORCED_OFF], "gone": True}


def require_all(tx: Session, queue_ids: Sequence[str], company: str) -> None:
    """Refuse ids that never were queues with 400/701 naming them; deleted ones are let through."""
    known = described(tx, queue_ids, company)
    unknown = [queue_id for queue_id in queue_ids if queue_id not in known]
    if unknown:
        raise errors.INVALID_QUEUE_ID(ids=unknown, company=company)


def tombstones(tx: Session, queue_ids: Sequence[str], company: str) -> list[Document]:
    """Deleted queues among these ids, as an agent must still see them: present, and telling it to take nothing."""
    if not queue_ids:
        return []
    where = (queue_tombstone.c.id.in_(queue_ids), queue_tombstone.c.company == company)
    rows = tx.all(sa.select(queue_tombstone.c.id, queue_tombstone.c.name).where(*where))
    return [{**row, "company": company, "tags": [FORCED_OFF], "system_tags": [], "entries": []} for row in rows]


def default(tx: Session, company: str) -> Document:
    """`{id, name}` of the queue tagged as default."""
    rows = tx.all(sa.select(queue.c.id, queue.c.name, queue.c.system_tags).where(queue.c.company == company))
    tagged = [row for row in rows if DEFAULT_TAG in row["system_tags"]]
    if not tagged:
        raise errors.NO_DEFAULT_QUEUE(company=company)
    if len(tagged) > 1:
        raise errors.SEVERAL_DEFAULT_QUEUES(company=company, queues=[row["id"] for row in tagged])
    return {"id": tagged[0]["id"], "name": tagged[0]["name"]}


def by_name(tx: Session, name: str, company: str) -> str | None:
    """The id of the queue of this name, whatever the case of its letters."""
    same = sa.func.lower(queue.c.name) == name.strip().lower()
    result: str | None = tx.value(sa.select(queue.c.id).where(queue.c.company == company, same))
    return result


def create(tx: Transaction, name: str, *, company: str, user: str, **more: Any) -> str:
    """A new queue; names are unique up to case, because the agent compares them so."""
    name = _checked_name(tx, name, company)
    queue_id = new_id()
    values = {"id": queue_id, "company": company, "user": user, "name": name, "created": tx.now, "last_update": tx.now}
    tx.execute(sa.insert(queue).values(**values, **more))
    return queue_id


def update(tx: Transaction, queue_id: str, company: str, changes: dict[str, Any]) -> int:
    """Write fields of a queue; returns how many queues changed."""
    known = find(tx, queue_id, company)
    if "name" in changes:
        same = by_name(tx, changes["name"], company)
        changes["name"] = _checked_name(tx, changes["name"], company, unless=queue_id if same == queue_id else None)
    changed = {name: value for name, value in changes.items() if known.get(name) != value}
    if changed:
        tx.execute(sa.update(queue).where(queue.c.id == queue_id).values(**changed))
    if changed.keys() & {"name", "tags"}:
        tx.announce(QueueChanged(queue_id))
    return int(bool(changed))


def _checked_name(tx: Session, name: str, company: str, *, unless: str | None = None) -> str:
    name = name.strip()
    if len(name) < SHORTEST_NAME:
        raise errors.DATA_VALIDATION("name is too short", field="name", least=SHORTEST_NAME)
    known = by_name(tx, name, company)
    if known is not None and known != unless:
        raise errors.NOT_UNIQUE("a queue of this name exists", name=name, company=company)
    return name


def delete(tx: Transaction, queue_id: str, company: str) -> list[Entry]:
    """Remove a queue with its entries, which are returned; a tombstone stays for the agents that listen to it."""
    known = find(tx, queue_id, company)
    dropped = clear(tx, queue_id)
    tx.execute(sa.delete(lease).where(lease.c.queue == queue_id))
    tx.execute(sa.delete(queue).where(queue.c.id == queue_id))
    values = {"id": queue_id, "company": company, "name": known["name"], "deleted": tx.now}
    tx.execute(sa.insert(queue_tombstone).values(**values))
    tx.announce(QueueChanged(queue_id))
    return dropped


def bury_old(tx: Transaction, older_than: float) -> None:
    """Forget tombstones."""
    tx.execute(sa.delete(queue_tombstone).where(queue_tombstone.c.deleted < clock.timestamp(tx.moment - older_than)))


# --- entries ---


def entries(tx: Session, queue_ids: Sequence[str], most: int | None = None) -> dict[str, list[Document]]:
    """What waits in each of these queues, in order."""
    found: dict[str, list[Document]] = {queue_id: [] for queue_id in queue_ids}
    for queue_id, waiting in found.items():
        statement = waiting_in(queue_id).with_only_columns(queue_entry.c.task, queue_entry.c.added)
        waiting.extend(dict(row) for row in tx.all(statement.limit(most) if most is not None else statement))
    return found


def length(tx: Session, queue_id: str) -> int:
    """How many tasks wait."""
    return int(tx.value(sa.select(sa.func.count()).select_from(queue_entry).where(queue_entry.c.queue == queue_id)))


def summaries(tx: Session, queue_ids: Iterable[str]) -> dict[str, Document]:
    """`{id, name, display_name?, num_tasks, next_task?}` of each queue that exists."""
    result: dict[str, Document] = {}
    for queue_id in dict.fromkeys(queue_ids):
        row = tx.one(sa.select(queue.c.id, queue.c.name, queue.c.display_name).where(queue.c.id == queue_id))
        if row is None:
            continue
        result[queue_id] = {key: value for key, value in row.items() if value is not None}
        result[queue_id]["num_tasks"] = length(tx, queue_id)
        first = waiting_in(queue_id).join(task, task.c.id == queue_entry.c.task).limit(1)
        head = tx.one(first.with_only_columns(task.c.id, task.c.name))
        if head is not None:
            result[queue_id]["next_task"] = dict(head)
    return result


def heads(tx: Session, queue_ids: Iterable[str], *, without: frozenset[str] = frozenset()) -> Entry | None:
    """The first entry of the first of these queues that has one, leaving some tasks out."""
    for queue_id in queue_ids:
        for row in tx.execute(_HEADS, {"queue": queue_id, "most": len(without) + 1}).mappings():
            if row["task"] not in without:
                return entry_from(row)
    return None


def append(tx: Transaction, queue_id: str, task_id: str, *, added: str = "") -> None:
    """Put a task at the end; 400/706 when it is in this queue already. It leaves every other queue."""
    elsewhere = entry_row(tx, task_id, None)
    if elsewhere is not None:
        if elsewhere["queue"] == queue_id:
            raise errors.ALREADY_IN_QUEUE(task=task_id, queue=queue_id)
        take_out(tx, entry_from(elsewhere))
    largest = tx.value(sa.select(sa.func.max(queue_entry.c.pos)).where(queue_entry.c.queue == queue_id))
    _insert(tx, queue_id, task_id, 0 if largest is None else largest + STRIDE, added or tx.now)


def push_front(tx: Transaction, queue_id: str, task_id: str, *, added: str = "") -> None:
    """Put a task first."""
    remove(tx, task_id)
    smallest = tx.value(sa.select(sa.func.min(queue_entry.c.pos)).where(queue_entry.c.queue == queue_id))
    _insert(tx, queue_id, task_id, 0 if smallest is None else smallest - STRIDE, added or tx.now)


def _insert(tx: Transaction, queue_id: str, task_id: str, pos: int, added: str) -> None:
    end_lease(tx, task_id)
    tx.execute(sa.insert(queue_entry).values(queue=queue_id, task=task_id, pos=pos, added=added))
    _touch(tx, queue_id)
    tx.announce(QueueGrew(queue_id, task_id))


def end_lease(tx: Transaction, task_id: str) -> None:
    """Something was heard of the task: whoever popped it has it."""
    tx.execute(sa.delete(lease).where(lease.c.task == task_id))


def remove(tx: Transaction, task_id: str, queue_id: str | None = None) -> bool:
    """Take a task out of this queue, or of whichever it is in; False when it was not there."""
    row = entry_row(tx, task_id, queue_id)
    if row is not None:
        take_out(tx, entry_from(row))
    return row is not None


def take_out(tx: Transaction, entry: Entry) -> None:
    """Remove an entry; what becomes of its task is the caller's business."""
    tx.execute(sa.delete(queue_entry).where(queue_entry.c.task == entry.task))
    _touch(tx, entry.queue)
    tx.announce(EntryGone(entry.task))


def clear(tx: Transaction, queue_id: str) -> list[Entry]:
    """Take everything out."""
    dropped = [entry_from(row) for row in tx.all(waiting_in(queue_id))]
    tx.execute(sa.delete(queue_entry).where(queue_entry.c.queue == queue_id))
    _touch(tx, queue_id)
    for entry in dropped:
        tx.announce(EntryGone(entry.task))
    return dropped


def _touch(tx: Transaction, queue_id: str) -> None:
    tx.execute(sa.update(queue).where(queue.c.id == queue_id).values(last_update=tx.now))


def waiting_in(queue_id: str) -> sa.Select[Any]:
    """The question for what waits in a queue, in order."""
    return sa.select(queue_entry).where(queue_entry.c.queue == queue_id).order_by(queue_entry.c.pos)


def entry_row(tx: Session, task_id: str, queue_id: str | None) -> Row | None:
    """Where a task waits: in this queue, or in any."""
    statement = sa.select(queue_entry).where(queue_entry.c.task == task_id)
    return tx.one(statement if queue_id is None else statement.where(queue_entry.c.queue == queue_id))


def entry_from(row: Row) -> Entry:
    """A row of entries or leases as an entry."""
    return Entry(task=row["task"], queue=row["queue"], added=row["added"])


# --- moving ---


def position(tx: Session, queue_id: str, task_id: str) -> int:
    """The 0-based place of a task; 400/703 when it is not in this queue."""
    row = _require_entry(tx, queue_id, task_id)
    before = sa.and_(queue_entry.c.queue == queue_id, queue_entry.c.pos < row["pos"])
    return int(tx.value(sa.select(sa.func.count()).select_from(queue_entry).where(before)))


def move_by(tx: Transaction, queue_id: str, task_id: str, places: int) -> int:
    """Move towards the front (negative) or the back (positive), as far as there is room; returns the new place."""
    target = max(position(tx, queue_id, task_id) + places, 0)
    return move_to(tx, queue_id, task_id, target)


def move_to(tx: Transaction, queue_id: str, task_id: str, target: int) -> int:
    """Move to a 0-based place, or to the end when there are fewer; returns the new place."""
    row = _require_entry(tx, queue_id, task_id)
    others = waiting_in(queue_id).with_only_columns(queue_entry.c.pos).where(queue_entry.c.task != task_id)
    around = tx.execute(others.limit(2).offset(max(target - 1, 0))).scalars().all()
    pos = _pos_between(tx, others, target, list(around))
    if pos is None:
        _renumber(tx, queue_id)
        return move_to(tx, queue_id, task_id, target)
    if pos != row["pos"]:
        tx.execute(sa.update(queue_entry).where(queue_entry.c.task == task_id).values(pos=pos))
        _touch(tx, queue_id)
    return position(tx, queue_id, task_id)


def _pos_between(tx: Session, others: sa.Select[Any], target: int, around: list[int]) -> int | None:
    """The number for a place among the others; None when its neighbours leave no room."""
    if target <= 0:
        return around[0] - STRIDE if around else 0
    if len(around) == 2:
        middle = (around[0] + around[1]) // 2
        return middle if middle not in around else None
    last = tx.value(others.order_by(None).order_by(queue_entry.c.pos.desc()).limit(1))
    return 0 if last is None else last + STRIDE


def _renumber(tx: Transaction, queue_id: str) -> None:
    """Make room again; through numbers that nobody has, because they are unique at any moment."""
    tasks = list(tx.execute(waiting_in(queue_id).with_only_columns(queue_entry.c.task)).scalars())
    highest = tx.value(sa.select(sa.func.max(queue_entry.c.pos)).where(queue_entry.c.queue == queue_id))
    statement = sa.update(queue_entry).where(queue_entry.c.task == sa.bindparam("t")).values(pos=sa.bindparam("p"))
    tx.execute(statement, [{"t": name, "p": highest + (i + 1) * STRIDE} for i, name in enumerate(tasks)])


def _require_entry(tx: Session, queue_id: str, task_id: str) -> Row:
    row = entry_row(tx, task_id, queue_id)
    if row is None:
        raise errors.NOT_IN_QUEUE(queue=queue_id, task=task_id)
    return row
