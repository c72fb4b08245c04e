"""The second net: each constraint of the schema refuses what it is there for, and none stands unproven."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, Connection, UniqueConstraint, text
from sqlalchemy.exc import IntegrityError

from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.rows import Base
from tests.chaos.grounds import database_on
from tests.contract.conftest import World
from tests.contract.schema_breaches import BREACHES, fill


@pytest.fixture(scope="module", params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A connection to a database with rows of every kind; what a test changes is undone."""
    folder: Path = tmp_path_factory.mktemp("schema")
    with database_on(request.param, folder, request) as url:
        connector = SqlAlchemyMetadataConnector(url)
        connector.update_database()
        fill(connector, World(connector))
        with connector.engine.connect() as connection:
            yield connection
        connector.close()


@pytest.mark.parametrize("name", sorted(BREACHES))
def test_the_schema_refuses(filled: Connection, name: str) -> None:
    statement = BREACHES[name]
    if filled.dialect.name in ("mysql", "mariadb"):
        statement = statement.replace(" key =", " `key` =")
    with filled.begin() as transaction:
        with pytest.raises(IntegrityError) as refused:
            filled.execute(text(statement))
        transaction.rollback()
    # SQLite names a CHECK, and of a UNIQUE its columns.
    if filled.dialect.name != "sqlite" or name.startswith("ck_"):
        assert name in str(refused.value)


def test_a_row_points_at_no_row_that_is_not_there(filled: Connection) -> None:
    with filled.begin() as transaction:
        with pytest.raises(IntegrityError):
            filled.execute(text("UPDATE model_update SET model_id = 4711"))
        transaction.rollback()


def test_every_constraint_of_the_schema_is_asked() -> None:
    kept = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint | UniqueConstraint)
    }
    kept |= {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes if index.unique}
    assert kept == set(BREACHES), "tests/contract/schema_breaches.py: a statement for each that it alone refuses"
