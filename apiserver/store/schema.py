"""The tables, for every database alike.

A column that appears on the wire has the name of its field, so that the query language (`query/`) can be read off a
table. Times are text of one width (`clock.timestamp`), lists and dictionaries are JSON. A task is three rows, because
SQLite writes a whole row on each update: `task` changes with every ping, `task_body` may hold megabytes of diff,
`task_metrics` grows with reports. Tables of events live in `store/events.py` and join this metadata when they are
imported.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


def ident(name: str, *, primary: bool = False, nullable: bool = True) -> Column[str]:
    """An id: 32 hex characters for our own records, any short text for users and workers."""
    return Column(name, String(255), primary_key=primary, nullable=nullable and not primary)


def moment(name: str) -> Column[str]:
    """A time of a record, as `clock.timestamp` writes it; absent while it has not happened."""
    return Column(name, String(32))


def mapping(name: str) -> Column[Any]:
    """A dictionary on the wire, stored as JSON; never null, so that replies always carry an object."""
    return Column(name, JSON(none_as_null=True), nullable=False, default=dict)


def listing(name: str) -> Column[Any]:
    """A list on the wire, stored as JSON; never null, because clients refuse a reply with a null list."""
    return Column(name, JSON(none_as_null=True), nullable=False, default=list)


def to_json(value: object) -> str:
    """Compact JSON that never says NaN: used by the engine for every JSON column."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


setting = Table(
    "setting",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

user = Table(
    "user",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    Column("name", String(1024), nullable=False),
    Column("given_name", String(1024)),
    Column("family_name", String(1024)),
    Column("role", String(32), nullable=False),
    Column("email", String(1024)),
    moment("created"),
    mapping("preferences"),
)

credential = Table(
    "credential",
    metadata,
    ident("access_key", primary=True),
    Column("secret_hash", String(255), nullable=False),
    ident("user", nullable=False),
    Column("label", String(1024)),
    moment("created"),
    moment("last_used"),
    Column("last_used_from", String(255)),
    Index(None, "user"),
)

revoked_session = Table(
    "revoked_session",
    metadata,
    ident("session", primary=True),
    Column("expires", BigInteger, nullable=False),
)

project = Table(
    "project",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    ident("user"),
    Column("name", String(2048), nullable=False),
    Column("basename", String(1024), nullable=False),
    Column("description", Text),
    listing("tags"),
    listing("system_tags"),
    Column("default_output_destination", Text),
    moment("created"),
    moment("last_update"),
    ident("parent"),
    listing("path"),
    Column("featured", Integer),
    Index(None, "company", "name", unique=True),
    Index(None, "parent"),
)

task = Table(
    "task",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    ident("user"),
    Column("name", String(2048), nullable=False),
    Column("type", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_reason", Text, nullable=False, default=""),
    Column("status_message", Text, nullable=False, default=""),
    moment("status_changed"),
    moment("last_update"),
    moment("last_change"),
    ident("last_changed_by"),
    Column("comment", Text),
    moment("created"),
    moment("started"),
    moment("completed"),
    moment("published"),
    Column("active_duration", Integer),
    ident("parent"),
    ident("project"),
    listing("tags"),
    listing("system_tags"),
    mapping("runtime"),
    mapping("container"),
    mapping("models"),
    mapping("output"),
    ident("last_worker"),
    moment("last_worker_report"),
    Column("last_iteration", BigInteger, nullable=False, default=0),
    ident("execution_queue"),  # `execution.queue` on the wire
    Column("enqueue_status", String(16)),  # internal: where a dequeue leads back to
    Index(None, "status", "last_update"),
    Index(None, "project", "created"),
    Index(None, "parent"),
    Index(None, "created"),
)

task_body = Table(
    "task_body",
    metadata,
    ident("id", primary=True),
    mapping("script"),
    mapping("execution"),
    mapping("hyperparams"),
    mapping("configuration"),
    Column("report", Text),
    Column("report_assets", JSON(none_as_null=True)),
)

task_metrics = Table(
    "task_metrics",
    metadata,
    ident("id", primary=True),
    mapping("last_metrics"),
    mapping("metric_stats"),
)

model = Table(
    "model",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    ident("user"),
    Column("name", String(2048), nullable=False),
    ident("parent"),
    ident("project"),
    ident("task"),
    Column("comment", Text),
    listing("tags"),
    listing("system_tags"),
    Column("uri", Text),
    Column("framework", String(255)),
    mapping("design"),
    mapping("labels"),
    Column("ready", Boolean, nullable=False, default=False),
    moment("created"),
    moment("last_update"),
    moment("last_change"),
    ident("last_changed_by"),
    Column("last_iteration", BigInteger, nullable=False, default=0),
    mapping("last_metrics"),
    mapping("metric_stats"),
    mapping("metadata"),
    mapping("ui_cache"),
    Index(None, "task"),
    Index(None, "project", "created"),
    Index(None, "created"),
)

queue = Table(
    "queue",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    ident("user"),
    Column("name", String(1024), nullable=False),
    Column("display_name", String(1024)),
    moment("created"),
    moment("last_update"),
    listing("tags"),
    listing("system_tags"),
    mapping("metadata"),
    Index(None, "company", "name"),
)

#: Ids of deleted queues that agents may still ask for (an agent whose queue vanishes restarts once a second).
queue_tombstone = Table(
    "queue_tombstone",
    metadata,
    ident("id", primary=True),
    ident("company", nullable=False),
    Column("name", String(1024), nullable=False),
    moment("deleted"),
)

#: A task waits in at most one queue; `pos` is sparse, so that a move writes one row.
queue_entry = Table(
    "queue_entry",
    metadata,
    ident("task", primary=True),
    ident("queue", nullable=False),
    Column("pos", BigInteger, nullable=False),
    moment("added"),
    Index(None, "queue", "pos", unique=True),
)

#: A popped task of which nothing has been heard yet; when the lease runs out it goes back to the front.
lease = Table(
    "lease",
    metadata,
    ident("task", primary=True),
    ident("queue", nullable=False),
    moment("added"),
    ident("worker"),
    Column("ip", String(64)),
    Column("claim", String(255)),
    Column("popped_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index(None, "expires_at"),
)

worker = Table(
    "worker",
    metadata,
    ident("company", primary=True),
    ident("id", primary=True),
    mapping("entry"),
    Column("expires_at", Float, nullable=False),
)

worker_property = Table(
    "worker_property",
    metadata,
    ident("company", primary=True),
    ident("worker", primary=True),
    Column("key", String(255), primary_key=True),
    Column("value", Text, nullable=False),
    Column("expires_at", Float),
)
