"""A database that is there and says nothing is given up: after a time, by its name, and with its connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url, text

from connectors.errors import DatabaseUnavailable
from connectors.records import FederatedModel
from connectors.sql import engine, patience
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.engine import open_engine
from tests.proxy import Proxy, proxy_to


@pytest.fixture(
    params=["postgresql", pytest.param("mariadb", marks=pytest.mark.wide)],
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    from tests.chaos.grounds import database_on

    with database_on(request.param, tmp_path, request) as url:
        yield url


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with proxy_to(database_url) as made:
        yield made


@pytest.fixture
def connector(
    database_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqlAlchemyMetadataConnector]:
    direct = SqlAlchemyMetadataConnector(database_url)
    direct.update_database()
    direct.close()
    monkeypatch.setattr(engine, "TRUSTED_SECONDS", 3600.0)  # how slow this machine is says nothing of a connection
    made = SqlAlchemyMetadataConnector(proxy.url(database_url))
    yield made
    made.close()


def wait_a_second(connector: SqlAlchemyMetadataConnector) -> None:
    """Of the connection that is there: later ones, and all before this, wait as long as ever for a slow machine."""
    with connector.engine.connect() as connection:
        driven: Any = connection.connection.dbapi_connection
        setattr(driven, {"postgresql": "answer_seconds", "mariadb": "_read_timeout"}[connection.dialect.name], 1.0)


def test_a_half_open_connection_fails_a_read_and_the_next_has_another(
    connector: SqlAlchemyMetadataConnector, proxy: Proxy
) -> None:
    assert connector.pull_federated_models() == []
    wait_a_second(connector)
    assert proxy.lose() == 1
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        connector.pull_federated_models()
    assert time.monotonic() - began >= 1.0, "an answer that comes late is still waited for"
    assert connector.pull_federated_models() == []


def test_a_transaction_on_a_half_open_connection_is_begun_anew(
    connector: SqlAlchemyMetadataConnector, proxy: Proxy
) -> None:
    connector.pull_federated_models()
    wait_a_second(connector)
    assert proxy.lose() == 1
    connector.transact(lambda _: connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="kept")))
    assert [found.name for found in connector.pull_federated_models()] == ["kept"]


def test_a_server_that_takes_connections_and_says_nothing_is_unavailable(
    connector: SqlAlchemyMetadataConnector, proxy: Proxy, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit for connecting; MariaDB's driver waits for the server's greeting as for any answer."""
    if database_url.startswith("mariadb"):
        monkeypatch.setattr(patience, "ANSWER_SECONDS", 5.0)
    else:
        monkeypatch.setattr(patience, "ANSWER_SECONDS", 3600.0)
    other = SqlAlchemyMetadataConnector(proxy.url(database_url))
    proxy.hold()
    with pytest.raises(DatabaseUnavailable):
        other.pull_federated_models()
    proxy.release()
    assert other.pull_federated_models() == []
    other.close()


def test_a_slow_network_is_no_silent_one(connector: SqlAlchemyMetadataConnector, proxy: Proxy) -> None:
    proxy.delay = 0.05
    assert connector.pull_federated_models() == []
    assert proxy.carried == 1, "it was the same connection all the while"


def test_a_migration_may_take_longer_than_any_answer(database_url: str, connector: SqlAlchemyMetadataConnector) -> None:
    """It may have to wait for another one, or rewrite a table."""
    wait_a_second(connector)
    sleep = "SELECT pg_sleep(1.5)" if database_url.startswith("postgresql") else "SELECT SLEEP(1.5)"
    with connector.engine.begin() as connection, patience.unhurried(connection):
        connection.execute(text(sleep))
    with pytest.raises(DatabaseUnavailable), connector.transaction() as transaction:
        transaction.session.execute(text(sleep))


def test_what_the_url_says_of_patience_goes_before(postgres_url: str) -> None:
    options = patience.connect_options(make_url(f"{postgres_url}?connect_timeout=17&keepalives_idle=3"))
    assert "connect_timeout" not in options
    assert "keepalives_idle" not in options
    assert options["tcp_user_timeout"] > 0
    engine = open_engine(f"{postgres_url}?connect_timeout=17")
    with engine.connect() as connection:
        driven: Any = connection.connection.dbapi_connection
        assert isinstance(driven, psycopg.Connection), "the driver that is installed"
        parameters = driven.info.get_parameters()
    engine.dispose()
    assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == ("17", "20000")


def test_the_server_ends_a_transaction_whose_worker_has_vanished(
    connector: SqlAlchemyMetadataConnector, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the model's row locked for everybody else."""
    quick = {kind: said.replace(str(patience.IDLE_SECONDS), "1") for kind, said in patience._IDLE.items()}
    monkeypatch.setattr(patience, "_IDLE", quick)
    sleeper = SqlAlchemyMetadataConnector(database_url)
    model = connector.transact(lambda _: connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="held")))
    held, may_end = threading.Event(), threading.Event()
    faults: list[BaseException] = []

    def sleep_over_a_lock() -> None:
        try:
            with sleeper.transaction():
                sleeper.lock_model(model)
                held.set()
                may_end.wait(60)
                sleeper.lock_model(model)
        except DatabaseUnavailable as error:
            faults.append(error)

    vanished = threading.Thread(target=sleep_over_a_lock)
    vanished.start()
    assert held.wait(30)
    assert connector.transact(lambda _: connector.lock_model(model)).id == model.id
    may_end.set()
    vanished.join()
    sleeper.close()
    assert len(faults) == 1, "and it is told, as of any passing fault"
