"""Opening a SQLite file that others are busy with."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from connectors.sql.engine import open_engine


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
