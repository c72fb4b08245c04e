"""Alembic behind two functions, so that nobody needs an alembic.ini."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from connectors.sql import mariadb

_SCRIPTS = Path(__file__).parent / "migrations"

# Any number, the same for every hub: whoever migrates holds it.
_ADVISORY_LOCK = 7_303_195_100
_LONGEST_MIGRATION_SECONDS = 3600


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`, in one transaction where the database can."""
    with engine.begin() as connection, _alone(connection):
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema down to `revision`."""
    with engine.begin() as connection, _alone(connection):
        command.downgrade(_config(connection), revision)


def revision_of(engine: Engine) -> str | None:
    """The revision that the database says it is at; None if it was never migrated."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """The revision that this version's code was written for."""
    newest = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    assert newest is not None
    return newest


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep other migrations waiting: two replicas starting at once must not both create the tables.

    Raises: DatabaseUnavailable if another one takes too long.
    """
    kind = connection.dialect.name
    if kind == "mariadb":
        with mariadb.named_lock(connection, "migrate", _LONGEST_MIGRATION_SECONDS):
            mariadb.prepare_schema(connection)
            yield
        return
    if kind == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    yield  # SQLite's BEGIN IMMEDIATE does it by itself
