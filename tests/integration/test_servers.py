"""The test servers themselves: a crash must be a crash, and what was accepted must survive it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import redis

from tests.servers import postgres_programs, postgres_server, valkey_server
from worker.server import find_server


def test_the_locked_wheels_bring_both_servers() -> None:
    """Where one is missing a thousand tests are skipped: that must not look like a green run."""
    assert find_server().exists()
    programs = postgres_programs()
    assert programs is not None
    assert (programs / "postgres").exists()


def test_postgres_killed_and_restarted_has_what_was_committed(tmp_path: Path) -> None:
    with postgres_server(tmp_path) as server:
        url = server.url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        before = server.pid
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2)
        server.restart()
        assert server.pid != before
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (42,)


def test_valkey_killed_and_restarted_has_what_it_accepted(tmp_path: Path) -> None:
    """Its file is written before the answer: a kill loses nothing."""
    with valkey_server(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.rpush("queue", *range(1000))
        server.kill()
        server.restart()
        with redis.Redis.from_url(server.url) as client:
            assert client.llen("queue") == 1000
