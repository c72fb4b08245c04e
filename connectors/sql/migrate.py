"""Alembic behind two functions, so that nobody needs an alembic.ini."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

_SCRIPTS = Path(__file__).parent / "migrations"

# Any number, the same for every hub: whoever migrates holds it.
_ADVISORY_LOCK = 7_303_195_100


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`, in one transaction where the database can."""
    with engine.begin() as connection:
        _wait_for_others(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema down to `revision`."""
    with engine.begin() as connection:
        _wait_for_others(connection)
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


def _wait_for_others(connection: Connection) -> None:
    # Two replicas starting at once must not both create the tables. SQLite's BEGIN IMMEDIATE does it by itself.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
