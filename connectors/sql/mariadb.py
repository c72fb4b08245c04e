"""MariaDB as the hub needs it: which servers will do, how each connection is set up, which of its errors pass.

The server's own defaults differ from one installation to the next, and a lax one loses data in silence: what the hub
relies on is set for each connection, or looked at and refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, event, func, select
from sqlalchemy.exc import IntegrityError

from connectors.errors import DatabaseUnavailable, DatabaseUnsuitable, StatementTooLarge

# The oldest that is still maintained. Before 10.7 there is no UUID type, and columns made without it are not found by
# a driver that has met a newer server.
LEAST_VERSION: Final = (10, 11)
# What the server has by default: a round of 10,000 updates writes a manifest of some megabytes.
LEAST_PACKET_BYTES: Final = 16 * 1024 * 1024
# As PostgreSQL and SQLite compare: by code points, case and accents and trailing spaces included. The server's own
# collations take "Site " and "site" for one name.
COLLATION: Final = "utf8mb4_nopad_bin"

_SETTINGS: Final = {
    # Refused, not cut or rounded: what doesn't fit its column.
    "sql_mode": "'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    # The clock of the leases is read through it, and a zone with summer time has an hour twice.
    "time_zone": "'+00:00'",
    "collation_connection": f"'{COLLATION}'",
    "default_storage_engine": "InnoDB",
    # The second net under the round's protocol: a server can be set to do without.
    "check_constraint_checks": "1",
    "foreign_key_checks": "1",
    "unique_checks": "1",
    "sql_safe_updates": "0",
}
_LOOK: Final = "SELECT VERSION(), @@max_allowed_packet, @@log_bin, @@binlog_format"
_VERSION: Final = re.compile(r"(?:5\.5\.5-)?(\d+)\.(\d+)\b.*MariaDB", re.IGNORECASE)

# Deadlock; a lock that was waited for too long; a row that changed under a snapshot; too many connections; the server
# is going down, was not reached, has vanished, killed the connection or the statement; it became a replica; its
# cluster has no majority. And what an operator mends while the hub waits, as it waits for PostgreSQL: a wrong password,
# a host or user that is not let in, a database that is not there yet.
_PASSING: Final = frozenset(
    {1213, 1205, 1020, 1040, 1053, 1047, 1203, 1290, 1317, 1836, 1927, 2002, 2003, 2006, 2013, 2055}
    | {1045, 1049, 1130, 1698}
)
_NO_SUCH_SAVEPOINT: Final = 1305
_DUPLICATE: Final = 1062
_REFUSED_BY_CHECK: Final = 4025
_TOO_LARGE_OR_GONE: Final = frozenset({1153, 2006, 2013})
_PACKET_BYTES: Final = "max_allowed_packet"  # in a connection's info


def prepare_engine(engine: Engine) -> None:
    """See to it that each of the engine's connections is set up, and each of its errors named."""
    # First of all: SQLAlchemy's own look at the server refuses a MySQL one in words that name no way out.
    event.listen(engine, "connect", _set_up, insert=True)
    event.listen(engine, "handle_error", _name_error)


def prepare_schema(connection: Connection) -> None:
    """Let every table that is made from now on compare text as PostgreSQL does."""
    # Asked first: an account that may not change the database may still ask for a migration that has nothing to do.
    if connection.exec_driver_sql("SELECT @@collation_database").scalar() != COLLATION:
        connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET utf8mb4 COLLATE {COLLATION}")


@contextmanager
def named_lock(connection: Connection, purpose: str, seconds: int) -> Iterator[None]:
    """Hold the database's lock of that purpose: the connection's, not a transaction's, which DDL would end.

    Raises: DatabaseUnavailable if somebody else holds it for `seconds`.
    """
    database = connection.engine.url.database
    name = (
        f"fedqueue.{purpose}.{hashlib.sha256(str(database).encode()).hexdigest()[:16]}"  # of the whole server's names
    )
    if connection.scalar(select(func.get_lock(name, seconds))) != 1:
        raise DatabaseUnavailable(f"another process has been at it for {seconds} seconds: {purpose} was given up")
    try:
        yield
    finally:
        connection.execute(select(func.release_lock(name)))


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction, begun anew, may well succeed."""
    code = _code(error)
    if code == _NO_SUCH_SAVEPOINT:
        # A deadlock undoes the whole transaction, its savepoints too. Going back to one then fails, and that error is
        # the one that is heard of.
        return "SAVEPOINT" in str(error)
    return code in _PASSING


def is_unique(error: BaseException) -> bool:
    """Whether a value that must be unique was taken."""
    return _code(error) == _DUPLICATE


def _set_up(connection: Any, record: Any) -> None:
    """Make a new connection behave as the hub relies on. Raises: DatabaseUnsuitable, naming setting and rule."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(_LOOK)
        version, packet_bytes, log_bin, binlog_format = cursor.fetchone()
        _check(version, packet_bytes, log_bin, binlog_format)
        record.info[_PACKET_BYTES] = packet_bytes
        cursor.execute("SET SESSION " + ", ".join(f"{name} = {value}" for name, value in _SETTINGS.items()))


def _check(version: str, packet_bytes: int, log_bin: int, binlog_format: str) -> None:
    found = _VERSION.match(version)
    if found is None:
        raise DatabaseUnsuitable(f"the server is {version}: a MySQL server is not supported, MariaDB is")
    if (int(found[1]), int(found[2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise DatabaseUnsuitable(f"the server is MariaDB {version}: {least} is the oldest that will do")
    if packet_bytes < LEAST_PACKET_BYTES:
        raise DatabaseUnsuitable(
            f"the server's max_allowed_packet is {packet_bytes}: set it to {LEAST_PACKET_BYTES} (16M) or more, "
            "or a large round's manifest can't be written"
        )
    if log_bin and binlog_format == "STATEMENT":
        raise DatabaseUnsuitable(
            "the server's binlog_format is STATEMENT, which can't log READ COMMITTED transactions: set MIXED or ROW"
        )


def _name_error(context: ExceptionContext) -> BaseException | None:
    """The error under the name that it has with other databases; None leaves it as it is."""
    cause = context.original_exception
    code = _code(cause)
    if code == _REFUSED_BY_CHECK:
        # The driver files it under the faults of the server.
        return IntegrityError(context.statement, None, cause)
    if code in _TOO_LARGE_OR_GONE and context.connection is not None and context.execution_context is not None:
        limit = context.connection.info.get(_PACKET_BYTES)
        size = _size(context.execution_context.parameters)
        if limit is not None and size > limit:
            # The server hangs up, at once or when it has said why, and would on the next attempt.
            context.is_disconnect = True
            return StatementTooLarge(size, limit)
    return None


def _code(error: BaseException) -> int | None:
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None


def _size(values: Any) -> int:
    """About how many bytes the values take in a statement."""
    if isinstance(values, str):
        return len(values.encode())
    if isinstance(values, bytes):
        return len(values)
    if isinstance(values, Mapping):
        return sum(_size(value) for value in values.values())
    if isinstance(values, Sequence):
        return sum(_size(value) for value in values)
    return 0
