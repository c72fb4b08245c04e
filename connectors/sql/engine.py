"""One way to open a database so that the round's protocol holds on it, and to tell its passing faults from ours."""

from __future__ import annotations

import math
import re
import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError

from connectors.sql import mariadb, patience

# Retried as whole transactions: serialization failure, deadlock, lost connection, server shutting down or starting, a
# transaction that lay idle for too long, a server without room (disk, memory, connections).
_POSTGRESQL = re.compile(r"40001|40P01|08...|57P0.|25P03|53...")
_BUSY_SECONDS = 30
_SQLITE = ("database is locked", "database table is locked", "database is busy")
# A full disk passes when somebody makes room. SQLite has two ways of saying so; and having said so it has undone the
# whole transaction by itself, as the next to go back to a savepoint of it hears.
_SQLITE_FULL = ("database or disk is full", "disk I/O error", "no such savepoint")

# So long after its last use a connection is taken to be there. If it is not, a transaction is begun anew, and a read
# fails as it does when the database is away.
TRUSTED_SECONDS = 2.0


def open_engine(url: str, *, pool_size: int = 5, pool_timeout: float = 30.0, echo: bool = False) -> Engine:
    """An engine for the database at `url`, connected lazily.

    SQLite writes in WAL mode, durably, under BEGIN IMMEDIATE (the driver's default lost most read-then-write
    updates); PostgreSQL and MariaDB run at READ COMMITTED, which the guarded updates are enough for. A server that
    does not answer is given up (connectors.sql.patience).
    """
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    options: dict[str, Any] = {"echo": echo}
    if kind == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("an in-memory SQLite database is each connection's own: give a file")
        options["connect_args"] = {"isolation_level": None, "timeout": float(_BUSY_SECONDS)}
    else:
        options |= {"isolation_level": "READ COMMITTED", "pool_recycle": 1800}
        options["connect_args"] = patience.connect_options(parsed)
    engine = create_engine(url, pool_size=pool_size, max_overflow=pool_size, pool_timeout=pool_timeout, **options)
    if kind == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        _ask_who_was_idle(engine)
        patience.limit_patience(engine)
    if kind == "mariadb":
        mariadb.prepare_engine(engine)
    return engine


def for_reading(engine: Engine) -> Engine:
    """The same engine, connections and all, for sessions that only read."""
    if engine.dialect.name == "postgresql":
        # Each statement sees what is committed, as in a READ COMMITTED transaction: without BEGIN and ROLLBACK.
        return engine.execution_options(fedqueue_read_only=True, isolation_level="AUTOCOMMIT")
    return engine.execution_options(fedqueue_read_only=True)


def _ask_who_was_idle(engine: Engine) -> None:
    """Find out before it is used whether a connection that has lain idle is still there.

    SQLAlchemy's own pre-ping asks every time, which is a round trip for every transaction and every read.
    """

    def returned(_connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("returned", math.inf) < TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool opens a new one, and asks no more of those that are as old.
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", returned)
    event.listen(engine, "checkout", taken)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    _write_ahead(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: Any) -> None:
    """Put the database into WAL mode, or find it there."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # For this one statement SQLite does not wait as busy_timeout says: while another connection makes the
            # switch, or undoes it at its end as the last one, it refuses at once.
            if not any(words in str(error) for words in _SQLITE) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock before the first read, so what was read still holds at the write.
    read_only = connection.get_execution_options().get("fedqueue_read_only")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def is_passing(error: DBAPIError) -> bool:
    """Whether the same transaction, begun anew, may well succeed."""
    if error.connection_invalidated:
        return True
    cause = error.orig
    driver = type(cause).__module__.partition(".")[0]
    if cause is not None and driver == "pymysql":
        # By its numbers: it has SQLSTATEs too, coarser ones.
        return mariadb.is_passing(cause)
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate is not None:
        return _POSTGRESQL.fullmatch(str(sqlstate)) is not None
    if driver == "psycopg" and any(kind.__name__ == "OperationalError" for kind in type(cause).mro()):
        return True  # no SQLSTATE: the server was not reached, or not in time, or does not answer
    return any(words in str(cause) for words in (*_SQLITE, *_SQLITE_FULL))


def is_unique(error: IntegrityError) -> bool:
    """Whether a value that must be unique was taken."""
    cause: Any = error.orig
    return (
        getattr(cause, "sqlstate", None) == "23505"
        or "UNIQUE constraint failed" in str(cause)
        or mariadb.is_unique(cause)
    )
