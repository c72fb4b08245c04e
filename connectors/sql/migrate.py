"""Alembic behind two functions, so that nobody needs an alembic.ini."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from connectors.sql import mariadb, patience
from connectors.sql.steps import Chain, remembered

_SCRIPTS = Path(__file__).parent / "migrations"

# Any number, the same for every hub: whoever migrates holds it.
_ADVISORY_LOCK = 7_303_195_100
_LONGEST_MIGRATION_SECONDS = 3600


def upgrade(engine: Engine, *, contract: bool) -> str | None:
    """Bring the schema to this version's, in one transaction where the database can; the revision found.

    Without `contract` not beyond the first step that shuts out code which may run now (connectors.sql.steps).
    """
    with engine.begin() as connection, patience.unhurried(connection), _alone(connection):
        # Read under the lock: another one may have migrated meanwhile.
        found = _current(connection)
        target = known_steps().target(found, contract=contract)
        if target != found:
            command.upgrade(_config(connection), target)
        return found


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema down to `revision`."""
    with engine.begin() as connection, patience.unhurried(connection), _alone(connection):
        command.downgrade(_config(connection), revision)


def revision_of(engine: Engine) -> str | None:
    """The revision that the database says it is at; None if it was never migrated."""
    with engine.connect() as connection:
        return _current(connection)


def check_schema(engine: Engine) -> None:
    """Return if this version's code may work on the database. Raises: SchemaOutdated, SchemaTooNew."""
    chain = known_steps()
    with engine.connect() as connection:
        found = _current(connection)
        # One more question only of a database that is newer than this code.
        allowed = remembered(connection, found) if found is not None and not chain.knows(found) else None
    chain.check(found, allowed)


def newest_revision() -> str:
    """The revision that this version's code was written for."""
    return known_steps().newest


@cache
def known_steps() -> Chain:
    """The migrations of this version."""
    return Chain(ScriptDirectory(str(_SCRIPTS)))


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


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
