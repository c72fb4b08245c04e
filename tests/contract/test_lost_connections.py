"""Connections that the database has cut: found out before they are used where that is cheap, survived where not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pymysql
import pytest
from pymysql.constants import ER

from connectors.errors import DatabaseUnavailable
from connectors.records import FederatedModel
from connectors.sql import engine
from connectors.sql.connector import SqlAlchemyMetadataConnector
from tests.chaos.facts import connect_mariadb
from tests.contract.conftest import migrated_url


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return migrated_url(request, tmp_path)


@pytest.fixture
def connector(url: str) -> Iterator[SqlAlchemyMetadataConnector]:
    made = SqlAlchemyMetadataConnector(url)
    yield made
    made.close()


def cut_all(url: str) -> None:
    """End every other connection to that database, as a restart of it does."""
    if url.startswith("mariadb"):
        with closing(connect_mariadb(url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
            others = [found for (found,) in cursor.fetchall()]
            assert others, "nothing was connected"
            for other in others:
                try:
                    cursor.execute(f"KILL {other}")
                except pymysql.err.Error as error:
                    # One that a fixture had closed may only now be gone.
                    if error.args[0] != ER.NO_SUCH_THREAD:
                        raise
        return
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as line:
        ended = line.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert ended, "nothing was connected"


def test_one_that_was_cut_while_idle_is_replaced_unnoticed(
    connector: SqlAlchemyMetadataConnector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TRUSTED_SECONDS", 0.0)
    assert connector.pull_federated_models() == []
    cut_all(url)
    assert connector.pull_federated_models() == []


def test_one_that_was_cut_a_moment_ago_fails_a_read_once_and_by_its_name(
    connector: SqlAlchemyMetadataConnector, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TRUSTED_SECONDS", 3600.0)  # a moment ago, however slow this machine is
    assert connector.pull_federated_models() == []
    cut_all(url)
    with pytest.raises(DatabaseUnavailable):
        connector.pull_federated_models()
    assert connector.pull_federated_models() == []


def test_a_transaction_on_one_that_was_cut_is_begun_anew(connector: SqlAlchemyMetadataConnector, url: str) -> None:
    model = FederatedModel(id=0, uuid=uuid4(), name="kept")
    connector.pull_federated_models()
    cut_all(url)
    connector.transact(lambda _: connector.add_federated_model(model))
    assert [found.name for found in connector.pull_federated_models()] == ["kept"]


def test_a_forked_child_leaves_its_parents_connections_open(connector: SqlAlchemyMetadataConnector) -> None:
    """To close what is shared with the parent hangs up for the parent, too."""
    assert connector.pull_federated_models() == []
    child = os.fork()
    if child == 0:
        connector.forget_connections()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert connector.pull_federated_models() == []
