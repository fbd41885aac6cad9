"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: PLR0915 (every table is a statement)
    op.create_table(
        "credential",
        sa.Column("access_key", sa.String(length=255), nullable=False),
        sa.Column("secret_hash", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("label", sa.String(length=1024), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("last_used", sa.String(length=32), nullable=True),
        sa.Column("last_used_from", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("access_key", name=op.f("pk_credential")),
    )
    with op.batch_alter_table("credential", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_credential_user"), ["user"], unique=False)

    op.create_table(
        "event_document",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("iteration", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_document")),
    )
    with op.batch_alter_table("event_document", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_event_document_owner_type_digest"), ["owner", "type", "digest"], unique=True
        )
        batch_op.create_index(
            batch_op.f("ix_event_document_owner_type_iteration"), ["owner", "type", "iteration"], unique=False
        )

    op.create_table(
        "lease",
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("added", sa.String(length=32), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("ip", sa.String(length=64), nullable=True),
        sa.Column("claim", sa.String(length=255), nullable=True),
        sa.Column("popped_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_lease")),
    )
    with op.batch_alter_table("lease", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lease_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "log_batch",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_log_batch")),
    )
    with op.batch_alter_table("log_batch", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_log_batch_received_ms"), ["received_ms"], unique=False)

    op.create_table(
        "log_chunk",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_chunk")),
    )
    with op.batch_alter_table("log_chunk", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_log_chunk_owner_first_ms"), ["owner", "first_ms"], unique=False)
        batch_op.create_index(batch_op.f("ix_log_chunk_owner_id"), ["owner", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_log_chunk_owner_last_ms"), ["owner", "last_ms"], unique=False)

    op.create_table(
        "log_event_id",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("owner", "event_id", name=op.f("pk_log_event_id")),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=2048), nullable=False),
        sa.Column("parent", sa.String(length=255), nullable=True),
        sa.Column("project", sa.String(length=255), nullable=True),
        sa.Column("task", sa.String(length=255), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("system_tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("framework", sa.String(length=255), nullable=True),
        sa.Column("design", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("last_update", sa.String(length=32), nullable=True),
        sa.Column("last_change", sa.String(length=32), nullable=True),
        sa.Column("last_changed_by", sa.String(length=255), nullable=True),
        sa.Column("last_iteration", sa.BigInteger(), nullable=False),
        sa.Column("last_metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metric_stats", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("ui_cache", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model")),
    )
    with op.batch_alter_table("model", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_created"), ["created"], unique=False)
        batch_op.create_index(batch_op.f("ix_model_project_created"), ["project", "created"], unique=False)
        batch_op.create_index(batch_op.f("ix_model_task"), ["task"], unique=False)

    op.create_table(
        "project",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=2048), nullable=False),
        sa.Column("basename", sa.String(length=1024), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("system_tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("default_output_destination", sa.Text(), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("last_update", sa.String(length=32), nullable=True),
        sa.Column("parent", sa.String(length=255), nullable=True),
        sa.Column("path", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("featured", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
    )
    with op.batch_alter_table("project", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_project_company_name"), ["company", "name"], unique=True)
        batch_op.create_index(batch_op.f("ix_project_parent"), ["parent"], unique=False)

    op.create_table(
        "queue",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("display_name", sa.String(length=1024), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("last_update", sa.String(length=32), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("system_tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue")),
    )
    with op.batch_alter_table("queue", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_queue_company_name"), ["company", "name"], unique=False)

    op.create_table(
        "queue_entry",
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("pos", sa.BigInteger(), nullable=False),
        sa.Column("added", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_queue_entry")),
    )
    with op.batch_alter_table("queue_entry", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_queue_entry_queue_pos"), ["queue", "pos"], unique=True)

    op.create_table(
        "queue_tombstone",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("deleted", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_tombstone")),
    )
    op.create_table(
        "revoked_session",
        sa.Column("session", sa.String(length=255), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_revoked_session")),
    )
    op.create_table(
        "scalar_chunk",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series", sa.BigInteger(), nullable=False),
        sa.Column("first_iteration", sa.BigInteger(), nullable=False),
        sa.Column("last_iteration", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scalar_chunk")),
    )
    with op.batch_alter_table("scalar_chunk", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_scalar_chunk_series_first_iteration"), ["series", "first_iteration"], unique=False
        )

    op.create_table(
        "scalar_series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("metric_hash", sa.String(length=32), nullable=False),
        sa.Column("variant_hash", sa.String(length=32), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("x_axis_label", sa.Text(), nullable=True),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("iteration", sa.BigInteger(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
        sa.Column("min_value", sa.Float(), nullable=False),
        sa.Column("min_value_iteration", sa.BigInteger(), nullable=False),
        sa.Column("max_value", sa.Float(), nullable=False),
        sa.Column("max_value_iteration", sa.BigInteger(), nullable=False),
        sa.Column("first_value", sa.Float(), nullable=False),
        sa.Column("first_value_iteration", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("closed_until", sa.BigInteger(), nullable=True),
        sa.Column("open_body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scalar_series")),
    )
    with op.batch_alter_table("scalar_series", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_scalar_series_owner_metric_hash_variant_hash"),
            ["owner", "metric_hash", "variant_hash"],
            unique=True,
        )

    op.create_table(
        "setting",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    op.create_table(
        "task",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=2048), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=False),
        sa.Column("status_message", sa.Text(), nullable=False),
        sa.Column("status_changed", sa.String(length=32), nullable=True),
        sa.Column("last_update", sa.String(length=32), nullable=True),
        sa.Column("last_change", sa.String(length=32), nullable=True),
        sa.Column("last_changed_by", sa.String(length=255), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("started", sa.String(length=32), nullable=True),
        sa.Column("completed", sa.String(length=32), nullable=True),
        sa.Column("published", sa.String(length=32), nullable=True),
        sa.Column("active_duration", sa.Integer(), nullable=True),
        sa.Column("parent", sa.String(length=255), nullable=True),
        sa.Column("project", sa.String(length=255), nullable=True),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("system_tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("runtime", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("container", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("output", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("last_worker", sa.String(length=255), nullable=True),
        sa.Column("last_worker_report", sa.String(length=32), nullable=True),
        sa.Column("last_iteration", sa.BigInteger(), nullable=False),
        sa.Column("execution_queue", sa.String(length=255), nullable=True),
        sa.Column("enqueue_status", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
    )
    with op.batch_alter_table("task", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_task_created"), ["created"], unique=False)
        batch_op.create_index(batch_op.f("ix_task_parent"), ["parent"], unique=False)
        batch_op.create_index(batch_op.f("ix_task_project_created"), ["project", "created"], unique=False)
        batch_op.create_index(batch_op.f("ix_task_status_last_update"), ["status", "last_update"], unique=False)

    op.create_table(
        "task_body",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("script", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("execution", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("hyperparams", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("configuration", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("report_assets", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_body")),
    )
    op.create_table(
        "task_metrics",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("last_metrics", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metric_stats", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_metrics")),
    )
    op.create_table(
        "user",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=1024), nullable=False),
        sa.Column("given_name", sa.String(length=1024), nullable=True),
        sa.Column("family_name", sa.String(length=1024), nullable=True),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("email", sa.String(length=1024), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=True),
        sa.Column("preferences", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user")),
    )
    op.create_table(
        "worker",
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("entry", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("company", "id", name=op.f("pk_worker")),
    )
    op.create_table(
        "worker_property",
        sa.Column("company", sa.String(length=255), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("company", "worker", "key", name=op.f("pk_worker_property")),
    )
