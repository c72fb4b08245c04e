"""Servers for every test that asks for one, and an environment that leaks into none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.evidence import PROPERTY
from tests.chaos.facts import connect_mariadb
from tests.debian_servers import fresh_mariadb_database, mariadb_server
from tests.servers import Server, fresh_database, postgres_server, valkey_server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seeds and counts of the runs that draw, also of those that pass: without them a green run proves little."""
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if lines:
        terminalreporter.section("evidence")
        for line in lines:
            terminalreporter.write_line(str(line))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has configured must not change what they find."""
    for name in list(os.environ):
        if name.startswith(("FEDQUEUE_", "CELERY_", "REMAP_SIGTERM")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Redis-protocol server for all tests: leave it running. Kill one of your own, from `valkey_server`."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey_url(valkey: Server) -> str:
    """The shared server's URL, emptied for this test."""
    import redis

    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One PostgreSQL server for all tests: leave it running. Kill one of your own, from `postgres_server`."""
    # Nobody pulls this machine's plug: without fsync a new database is made in a moment.
    with postgres_server(tmp_path_factory.mktemp("postgres"), fsync=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """One MariaDB server for all tests: leave it running. Kill one of your own, from `mariadb_server`."""
    # Nobody pulls this machine's plug: what is committed is in the file when a process dies, and synced once a second.
    with mariadb_server("--innodb-flush-log-at-trx-commit=2") as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb: Server) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    with fresh_mariadb_database(mariadb) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_mariadb_url(mariadb: Server) -> Iterator[str]:
    """One database for all tests that leave its schema alone: MariaDB needs longer to make it than they last."""
    from connectors.sql.connector import SqlAlchemyMetadataConnector

    with fresh_mariadb_database(mariadb) as url:
        hub = SqlAlchemyMetadataConnector(url)
        hub.update_database()
        hub.close()
        yield url


@pytest.fixture
def emptied_mariadb_url(migrated_mariadb_url: str) -> str:
    """That database, with nothing in it but its schema, its ids counted from one again."""
    with closing(connect_mariadb(migrated_mariadb_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET foreign_key_checks = 0")
        cursor.execute(
            "SELECT table_name, auto_increment FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_name NOT IN ('alembic_version', 'schema_step')"
        )
        for table, next_id in cursor.fetchall():
            if next_id is None:
                cursor.execute(f"DELETE FROM `{table}`")
            elif next_id > 1:
                cursor.execute(f"TRUNCATE `{table}`")
    return migrated_mariadb_url


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for a hub of this test's own."""
    return tmp_path / "home"
