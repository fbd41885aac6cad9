"""Alembic's entry point; the connection is handed in by `store.migrate`, there is no alembic.ini."""

from alembic import context

from apiserver.store import events as _events  # noqa: F401
from apiserver.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
