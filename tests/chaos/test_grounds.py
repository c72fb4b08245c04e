"""Each ground is what its name says, and the test's own: a run on the wrong server would prove another one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pymysql
import pytest
import redis
from kombu.connection import Connection

from tests.chaos.grounds import BROKERS, DATABASES, broker_on, database_on

_WIDE = {"mariadb", "redis", "rabbitmq"}


def kinds(names: tuple[str, ...]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.wide] if name in _WIDE else []) for name in names]


@pytest.mark.parametrize("kind", kinds(tuple(name for name in DATABASES if name != "sqlite")))
def test_a_server_of_ones_own_keeps_what_was_committed_over_a_kill(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with database_on(kind, tmp_path, request, own_server=True) as (url, server):
        with closing(_connected(url)) as line:
            cursor = line.cursor()
            cursor.execute("CREATE TABLE kept (number INTEGER)")
            cursor.execute("INSERT INTO kept VALUES (7)")
            line.commit()
        server.kill()
        server.start()
        with closing(_connected(url)) as line:
            cursor = line.cursor()
            cursor.execute("SELECT number FROM kept")
            assert cursor.fetchall() in ([(7,)], ((7,),))


@pytest.mark.parametrize("kind", kinds(BROKERS))
def test_a_broker_is_the_program_that_it_is_called(kind: str, tmp_path: Path) -> None:
    with broker_on(kind, tmp_path) as broker:
        if kind == "rabbitmq":
            with Connection(broker.url) as line:  # type: ignore[no-untyped-call]
                line.connect()
                assert line.connection.server_properties["product"] == "RabbitMQ"
        else:
            with redis.Redis.from_url(broker.url) as client:
                assert client.info("server").get("server_name", "redis") == kind


def _connected(url: str) -> psycopg.Connection | pymysql.Connection:
    if url.startswith("postgresql"):
        return psycopg.connect(url.replace("+psycopg", ""))
    address, _, database = url.removeprefix("mariadb+pymysql://root@").partition("/")
    host, _, port = address.partition(":")
    return pymysql.connect(host=host, port=int(port), user="root", database=database)
