"""Opening a SQLite file that others are busy with."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from connectors.sql.engine import for_reading, open_engine


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_who_opens_a_file_that_another_writes_for_the_first_time_waits(tmp_path: Path, statement: str) -> None:
    """Replicas that start together all switch the new file to WAL, which SQLite refuses at once while one is busy."""
    with closing(sqlite3.connect(tmp_path / "hub.db", isolation_level=None, check_same_thread=False)) as first:
        first.execute("CREATE TABLE earlier (x)")
        first.execute(statement)
        first.execute("CREATE TABLE new (x)")
        later = threading.Timer(0.5, first.execute, ["COMMIT"])
        later.start()
        engine = open_engine(f"sqlite:///{tmp_path}/hub.db")
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        later.join()
        engine.dispose()


def test_a_connection_keeps_what_is_committed_and_waits_for_others(tmp_path: Path) -> None:
    """The driver's defaults forget commits at a power failure, and lost most updates that were read and written."""
    engine = open_engine(f"sqlite:///{tmp_path}/hub.db")
    with engine.connect() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in asked]
    engine.dispose()
    full = 2
    assert found == ["wal", full, 1, 30_000]


def test_who_reads_waits_for_no_writer(tmp_path: Path) -> None:
    """A round's second transaction may take a while: who looks meanwhile sees what stood before."""
    engine = open_engine(f"sqlite:///{tmp_path}/hub.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE seen (x)"))
    with engine.connect() as writing:
        writing.execute(text("INSERT INTO seen VALUES (1)"))
        with for_reading(engine).connect() as reading:
            plain = reading.connection.driver_connection
            assert plain is not None
            plain.execute("PRAGMA busy_timeout = 0")
            assert reading.execute(text("SELECT COUNT(*) FROM seen")).scalar() == 0
    engine.dispose()
