"""Bringing a database to the present schema.

A fresh database is created from the tables at once and stamped; an older one goes through the numbered migrations.
Alembic is imported only in the second case, because it would otherwise be the slowest part of the server's start. A
unit test holds the two ways together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from .. import errors
from .schema import metadata

MIGRATIONS = Path(__file__).parent / "migrations"


def head() -> str:
    """The number of the newest migration: files are named `NNNN_what_it_does.py` and their revision is `NNNN`."""
    files = (MIGRATIONS / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")
    return max((path.name[:4] for path in files), default="")


def upgrade(engine: Engine) -> None:
    """Create the tables in an empty database, or run the migrations that are missing."""
    import apiserver.store.events  # noqa: F401  (its tables join the metadata)

    revision = current(engine)
    if revision == head():
        return
    if revision is None and not sa.inspect(engine).get_table_names():
        with engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            connection.execute(sa.text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": head()})
        return
    if revision is not None and revision > head():
        raise errors.StartupError(
            f"the database has schema {revision}, this program knows {head()}", hint="start a newer version of it"
        )
    run_migrations(engine)


def current(engine: Engine) -> str | None:
    """The schema number that the database was stamped with."""
    with engine.connect() as connection:
        try:
            value: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        except sa.exc.DBAPIError:
            return None
    return value


def run_migrations(engine: Engine) -> None:
    """`alembic upgrade head` on this engine."""
    from alembic import command

    with engine.begin() as connection:
        command.upgrade(_alembic(connection), "head")


def write_migration(message: str) -> None:
    """Write the next numbered migration: what the tables have and the migrations so far do not make.

    For developers: `python -m apiserver.store.migrate "what it does"`, then read and correct the file.
    """
    from alembic import command

    number = f"{int(head() or 0) + 1:04d}"
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    if head():
        run_migrations(engine)
    with engine.begin() as connection:
        command.revision(_alembic(connection), message, autogenerate=True, rev_id=number)


def _alembic(connection: sa.Connection) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    write_migration(sys.argv[1])
