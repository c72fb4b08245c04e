"""How long a database that does not answer is waited for.

A machine that loses its power, or a network that drops packets, closes no connection: whoever waits on it for an answer
waits for ever. The kernel gives up one whose other end is silent, if it is asked to; a server that is there and does
not answer (stopped, or behind something that takes all and passes nothing on) is only found out by the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg.errors import _WaitTimeout
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL

CONNECT_SECONDS: Final = 5
# Longer than any statement here takes, waits for locks included (MariaDB gives those up after 50 s by itself).
ANSWER_SECONDS = 60.0
# A session that holds locks and says nothing for so long is ended by the server: its worker has vanished.
IDLE_SECONDS: Final = 60
_IDLE: Final = {
    "postgresql": f"SET SESSION idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'",
    "mariadb": f"SET SESSION idle_transaction_timeout = {IDLE_SECONDS}",
}

# An idle connection is probed after ten seconds, and given up when three probes, or what was sent, had no echo.
_KEEPALIVES: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}


def connect_options(url: URL) -> dict[str, Any]:
    """What the database's driver is told of patience; what the URL says goes before."""
    options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS}
    if url.get_backend_name() == "postgresql":
        options |= _KEEPALIVES
    else:
        options |= {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
    return {name: value for name, value in options.items() if name not in url.query}


def limit_patience(engine: Engine) -> None:
    """Have the engine's connections close when an answer is overdue, and the server end sessions that have vanished."""
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _connect)
    event.listen(engine, "connect", _set_up)


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Wait for this connection's answers as long as they take: a migration may rewrite a table."""
    driven: Any = connection.connection.dbapi_connection
    name = {"postgresql": "answer_seconds", "mariadb": "_read_timeout"}.get(connection.dialect.name)
    if name is None:
        yield
        return
    limit = getattr(driven, name)
    setattr(driven, name, None)
    try:
        yield
    finally:
        setattr(driven, name, limit)


def _connect(_dialect: Any, _record: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
    return _Connection.connect(*arguments, **named)


def _set_up(connection: Any, _record: Any) -> None:
    if not isinstance(connection, psycopg.Connection):
        with closing(connection.cursor()) as cursor:
            cursor.execute(_IDLE["mariadb"])
        return
    # Outside of any transaction, with whose end it would be undone.
    connection.autocommit = True
    connection.execute(_IDLE["postgresql"])
    connection.autocommit = False


class _Connection(psycopg.Connection[Any]):
    """One that does not wait for ever: psycopg itself has a limit for connecting alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's. Raises: OperationalError, with the connection closed, when the answer is overdue."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except _WaitTimeout as error:
            if timeout is not None:
                raise
            # An answer that comes now would be taken for the next statement's.
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.answer_seconds:g} s") from error
