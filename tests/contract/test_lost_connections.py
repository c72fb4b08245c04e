"""Connections that the database has cut: found out before they are used where that is cheap, survived where not."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from connectors.errors import DatabaseUnavailable
from connectors.records import FederatedModel
from connectors.sql import engine
from connectors.sql.connector import SqlAlchemyMetadataConnector


@pytest.fixture
def connector(postgres_url: str) -> Iterator[SqlAlchemyMetadataConnector]:
    made = SqlAlchemyMetadataConnector(postgres_url)
    made.update_database()
    yield made
    made.close()


def cut_all(url: str) -> None:
    """End every other connection to that database, as a restart of it does."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as line:
        ended = line.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert ended, "nothing was connected"


def test_one_that_was_cut_while_idle_is_replaced_unnoticed(
    connector: SqlAlchemyMetadataConnector, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TRUSTED_SECONDS", 0.0)
    assert connector.pull_federated_models() == []
    cut_all(postgres_url)
    assert connector.pull_federated_models() == []


def test_one_that_was_cut_a_moment_ago_fails_a_read_once_and_by_its_name(
    connector: SqlAlchemyMetadataConnector, postgres_url: str
) -> None:
    assert connector.pull_federated_models() == []
    cut_all(postgres_url)
    with pytest.raises(DatabaseUnavailable):
        connector.pull_federated_models()
    assert connector.pull_federated_models() == []


def test_a_transaction_on_one_that_was_cut_is_begun_anew(
    connector: SqlAlchemyMetadataConnector, postgres_url: str
) -> None:
    model = FederatedModel(id=0, uuid=uuid4(), name="kept")
    connector.pull_federated_models()
    cut_all(postgres_url)
    connector.transact(lambda _: connector.add_federated_model(model))
    assert [found.name for found in connector.pull_federated_models()] == ["kept"]
