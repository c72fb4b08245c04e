"""A database without room says so; that passes when somebody makes room, and nothing was half written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from connectors.errors import DatabaseUnavailable
from connectors.records import FederatedModel
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.engine import is_passing


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    made = SqlAlchemyMetadataConnector(f"sqlite:///{tmp_path}/hub.db")
    made.update_database()
    yield made
    made.close()


def add_until_full(connector: SqlAlchemyMetadataConnector) -> int:
    """How many models fitted in."""
    for number in range(1000):
        try:
            with connector.transaction():
                connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="m" * 200))
        except DatabaseUnavailable:
            return number
    raise AssertionError("it never became full")


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """This process's files end there; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_database_that_may_not_grow_passes(connector: SqlAlchemyMetadataConnector) -> None:
    """SQLite's own limit: "database or disk is full", as of a full disk."""
    with connector.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit = [pages + 4]

    def limited(driven: object, *_: object) -> None:
        driven.execute(f"PRAGMA max_page_count = {limit[0]}")  # type: ignore[attr-defined]

    event.listen(connector.engine, "checkout", limited)
    fitted = add_until_full(connector)
    limit[0] = 1_000_000
    with connector.transaction():
        connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="after"))
    assert len(connector.pull_federated_models()) == fitted + 1


def test_a_log_that_may_not_grow_passes(connector: SqlAlchemyMetadataConnector, tmp_path: Path) -> None:
    """EFBIG, or a quota: SQLite calls it a disk I/O error."""
    with files_limited_to(256 * 1024):
        fitted = add_until_full(connector)
    with connector.transaction():
        connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="after"))
    assert len(connector.pull_federated_models()) == fitted + 1


@pytest.mark.parametrize(
    "error", [psycopg.errors.DiskFull, psycopg.errors.OutOfMemory, psycopg.errors.TooManyConnections]
)
def test_a_postgresql_without_room_passes(error: type[psycopg.Error]) -> None:
    assert is_passing(DBAPIError("INSERT", None, error("no room")))
