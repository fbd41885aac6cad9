"""The tables of events. Volume goes into blobs: console lines and scalar points are stored in chunks, never as rows.

`owner` is the id of a task or, for model events, of a model; both are unique among each other. Metric and variant names
are of any length, so indexes use their hashes, which are also their keys in `last_metrics`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, String, Table, Text

from .schema import ident, metadata

#: SQLite numbers rows by itself only where the key is an INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

log_chunk = Table(
    "log_chunk",
    metadata,
    Column("id", _RowId, primary_key=True),
    ident("owner", nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "owner", "id"),
    Index(None, "owner", "first_ms"),
    Index(None, "owner", "last_ms"),
)

#: Ids that clients gave to log events, so that a repeated request is stored once.
log_event_id = Table(
    "log_event_id",
    metadata,
    ident("owner", primary=True),
    Column("event_id", String(64), primary_key=True),
)

#: Batches of log events without ids, remembered for a minute for the same purpose.
log_batch = Table(
    "log_batch",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Index(None, "received_ms"),
)

#: A curve: what `last_metrics` says of it, and its newest points, which the next report is added to.
scalar_series = Table(
    "scalar_series",
    metadata,
    Column("id", _RowId, primary_key=True),
    ident("owner", nullable=False),
    Column("metric_hash", String(32), nullable=False),
    Column("variant_hash", String(32), nullable=False),
    Column("metric", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("x_axis_label", Text),
    Column("value", Float, nullable=False),
    Column("iteration", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("total", Float, nullable=False),
    Column("min_value", Float, nullable=False),
    Column("min_value_iteration", BigInteger, nullable=False),
    Column("max_value", Float, nullable=False),
    Column("max_value_iteration", BigInteger, nullable=False),
    Column("first_value", Float, nullable=False),
    Column("first_value_iteration", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("closed_until", BigInteger),  # the last iteration in a closed chunk; none while there is none
    Column("open_body", LargeBinary, nullable=False),
    Index(None, "owner", "metric_hash", "variant_hash", unique=True),
)

#: Older points of a curve; the chunks of one series do not overlap.
scalar_chunk = Table(
    "scalar_chunk",
    metadata,
    Column("id", _RowId, primary_key=True),
    Column("series", BigInteger, nullable=False),
    Column("first_iteration", BigInteger, nullable=False),
    Column("last_iteration", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "series", "first_iteration"),
)

#: Everything that is reported one by one: plots, images, vectors, and scalars without an iteration.
event_document = Table(
    "event_document",
    metadata,
    Column("id", _RowId, primary_key=True),
    ident("owner", nullable=False),
    Column("type", String(32), nullable=False),
    Column("digest", String(32), nullable=False),
    Column("metric", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("iteration", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "owner", "type", "digest", unique=True),
    Index(None, "owner", "type", "iteration"),
)
