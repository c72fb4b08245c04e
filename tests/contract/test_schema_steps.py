"""Which code may work on which schema: a step that adds is for everybody, one that takes away waits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from connectors.errors import DatabaseUnavailable, SchemaOutdated, SchemaTooNew
from connectors.sql import migrate
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.migrate import known_steps, newest_revision
from connectors.sql.steps import oldest_code
from tests.contract.conftest import World, database_url
from tests.next_version import CONTRACTED, EXPANDED, add_next_version, add_step


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    """A database of this version."""
    connector = SqlAlchemyMetadataConnector(database_url(request, tmp_path))
    connector.update_database()
    yield connector
    connector.close()


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A folder with this version's steps, to add others to."""
    return Path(shutil.copytree(migrate._SCRIPTS, tmp_path / "migrations"))


@contextmanager
def code_with(migrations: Path) -> Iterator[None]:
    """Inside, this process is the code that has these migrations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "_SCRIPTS", migrations)
        known_steps.cache_clear()
        yield
    known_steps.cache_clear()


def remembered(database: SqlAlchemyMetadataConnector) -> dict[str, str]:
    with database.engine.connect() as connection:
        return dict(connection.execute(text("SELECT revision, oldest_code FROM schema_step")).all())


def test_every_step_says_the_oldest_code_that_may_work_after_it() -> None:
    """Before 0004 there was nothing to say it to."""
    known = [step.revision for step in ScriptDirectory(str(migrate._SCRIPTS)).walk_revisions()][::-1]
    for step in ScriptDirectory(str(migrate._SCRIPTS)).walk_revisions():
        if known.index(step.revision) >= known.index("0004"):
            assert isinstance(step.module.oldest_code, str)
            assert known.index(oldest_code(step)) <= known.index(step.revision)


def test_a_step_that_adds_is_applied_at_once_and_the_version_before_goes_on(
    database: SqlAlchemyMetadataConnector, migrations: Path
) -> None:
    add_next_version(migrations)
    before = remembered(database)
    with code_with(migrations):
        database.update_database()
        assert database.schema_revision() == EXPANDED
        assert database.contracting_steps() == [(CONTRACTED, EXPANDED)]
        database.check()  # the newer code does without the step that waits
    assert remembered(database) == before | {EXPANDED: before[newest_revision()]}
    database.check()
    World(database).model()
    database.update_database()  # an older version's migration finds nothing to do
    assert database.schema_revision() == EXPANDED


def test_a_step_that_takes_away_needs_to_be_asked_for_and_shuts_the_version_before_out(
    database: SqlAlchemyMetadataConnector, migrations: Path
) -> None:
    add_next_version(migrations, drops="description")
    world = World(database)
    world.model()
    with code_with(migrations):
        database.migrate_database(contract=True)
        assert database.schema_revision() == CONTRACTED
        database.check()
    with pytest.raises(SchemaTooNew, match=f"at {CONTRACTED}, which code of revision {EXPANDED} or newer") as refused:
        database.check()
    assert (refused.value.found, refused.value.mine) == (CONTRACTED, newest_revision())
    # One that runs all the same gives its work back, for newer ones: its errors would have lost it.
    with pytest.raises(DatabaseUnavailable, match="too old for the database by now"):
        database.pull_federated_models()


def test_a_step_down_forgets_what_was_remembered(database: SqlAlchemyMetadataConnector, migrations: Path) -> None:
    add_next_version(migrations)
    before = remembered(database)
    with code_with(migrations):
        database.migrate_database(contract=True)
        database.downgrade_database(max(before))
    assert remembered(database) == before
    database.check()


def test_a_step_that_adds_behind_one_that_takes_away_waits_with_it(
    database: SqlAlchemyMetadataConnector, migrations: Path
) -> None:
    """Then the newer code can't work yet, and says so."""
    add_next_version(migrations)
    column = 'op.add_column("trust", sa.Column("colour", sa.String(20), nullable=True))'
    add_step(migrations, "9003", CONTRACTED, EXPANDED, column, 'op.drop_column("trust", "colour")')
    with code_with(migrations):
        database.update_database()
        assert database.schema_revision() == EXPANDED
        with pytest.raises(SchemaOutdated):
            database.check()
        database.migrate_database(contract=True)
        database.check()


def test_an_empty_database_has_nobody_to_shut_out(migrations: Path, tmp_path: Path) -> None:
    add_next_version(migrations)
    empty = SqlAlchemyMetadataConnector(f"sqlite:///{tmp_path}/empty.db")
    with code_with(migrations):
        empty.update_database()
        assert empty.schema_revision() == CONTRACTED
    empty.close()


def test_a_newer_database_that_says_nothing_is_not_worked_on(database: SqlAlchemyMetadataConnector) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'afterwards'"))
    with pytest.raises(SchemaTooNew, match="install the newer version"):
        database.check()
