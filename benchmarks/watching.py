"""Seeing an aggregate in the database itself: a process of its own, asking with plain SQL and nothing of the hub's."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final
from uuid import UUID

import psycopg

from tests.chaos.facts import connect_mariadb

# Asked without a pause it would take a core from those whom it watches. A figure is at most this much too long.
_PAUSE: Final = 0.0005

_NEWEST = "SELECT COALESCE(MAX(number), 0) FROM model_aggregate WHERE model_id = {}"


@contextmanager
def watching(database_url: str, model_id: UUID) -> Iterator[dict[int, float]]:
    """Watch a model's aggregates within the block; after it: number -> when it was first seen, `time.monotonic()`."""
    seen: dict[int, float] = {}
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    watcher = context.Process(target=_watch, args=(database_url, model_id, theirs), daemon=True)
    watcher.start()
    try:
        assert ours.recv() == "watching"
        yield seen
        ours.send("stop")
        seen.update(ours.recv())
        watcher.join()
    finally:
        watcher.terminate()


def _watch(database_url: str, model_id: UUID, line: Connection) -> None:
    newest = _asker(database_url, model_id)
    seen: dict[int, float] = {}
    last = newest()
    line.send("watching")
    is_last = False
    while not is_last:
        # Asked before the look: told to stop, it may have stood still since the last aggregate came.
        is_last = line.poll()
        number = newest()
        if number > last:
            now = time.monotonic()
            seen |= dict.fromkeys(range(last + 1, number + 1), now)
            last = number
        time.sleep(_PAUSE)
    line.send(seen)


def _asker(database_url: str, model_id: UUID) -> Callable[[], int]:
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        file = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)
        model = "(SELECT id FROM federated_model WHERE uuid IN (?, ?))"
        (id_,) = file.execute(f"SELECT {model}", (model_id.hex, str(model_id))).fetchone()
        return lambda: int(file.execute(_NEWEST.format("?"), (id_,)).fetchone()[0])
    if database_url.startswith("mariadb"):
        return _mariadb_asker(database_url, model_id)
    server = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
    found = server.execute("SELECT id FROM federated_model WHERE uuid = %s", (model_id,)).fetchone()
    assert found is not None

    def newest() -> int:
        row = server.execute(_NEWEST.format("%s"), found).fetchone()
        assert row is not None
        return int(row[0])

    return newest


def _mariadb_asker(database_url: str, model_id: UUID) -> Callable[[], int]:
    cursor = connect_mariadb(database_url).cursor()

    def ask(statement: str, value: Any) -> int:
        cursor.execute(statement, (value,))
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])

    id_ = ask("SELECT id FROM federated_model WHERE uuid = %s", str(model_id))
    return lambda: ask(_NEWEST.format("%s"), id_)


def server_version(database_url: str) -> str:
    """The database's own name and version."""
    if database_url.startswith("sqlite"):
        return f"SQLite {sqlite3.sqlite_version}"
    if database_url.startswith("mariadb"):
        with contextlib.closing(connect_mariadb(database_url)) as mariadb:
            return f"MariaDB {mariadb.get_server_info().removeprefix('5.5.5-').partition('-')[0]}"
    with contextlib.closing(psycopg.connect(database_url.replace("+psycopg", ""))) as server:
        number = server.info.server_version
        return f"PostgreSQL {number // 10000}.{number % 10000}"
