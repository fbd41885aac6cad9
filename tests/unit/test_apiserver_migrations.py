"""The two ways to a schema, creating it at once and migrating to it, lead to the same one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

import apiserver.store.events  # noqa: F401  (its tables join the metadata)
from apiserver.errors import StartupError
from apiserver.store import migrate
from apiserver.store.schema import metadata


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'server.db'}")
    yield made
    made.dispose()


def differences(engine: Engine) -> list[object]:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with engine.connect() as connection:
        found: list[object] = list(compare_metadata(MigrationContext.configure(connection), metadata))
    return found


def test_the_migrations_lead_to_the_tables_of_the_schema(engine: Engine) -> None:
    migrate.run_migrations(engine)
    assert differences(engine) == [], 'run: python -m apiserver.store.migrate "what changed"'
    assert migrate.current(engine) == migrate.head()


def test_a_fresh_database_is_created_at_once_and_stamped(engine: Engine) -> None:
    migrate.upgrade(engine)
    assert differences(engine) == []
    assert migrate.current(engine) == migrate.head()
    migrate.upgrade(engine)


def test_a_database_of_a_newer_program_is_refused(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartupError, match="schema 9999"):
        migrate.upgrade(engine)
