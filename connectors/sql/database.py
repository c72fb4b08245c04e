"""Sessions and transactions: the part of the SQL connector that all others stand on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import CursorResult, Executable, Select
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from connectors.errors import DatabaseUnavailable, TransactionRequired
from connectors.metadata import BaseMetadataConnector, Transaction
from connectors.sql.engine import for_reading, is_passing, is_unique, open_engine
from connectors.sql.held import HubSession
from connectors.sql.rows import Base

T = TypeVar("T")
Row = TypeVar("Row", bound=Base)

_TRIES = 6


class SqlTransaction:
    """An open transaction: `session` for functions that take one."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rolled_back = False

    def set_rollback(self) -> None:
        """Undo everything at the end of the block, without an exception."""
        self.rolled_back = True


class Database(BaseMetadataConnector):
    """Reads in short sessions of their own, writes only inside `transaction()`, one a thread."""

    def __init__(self, url: str, *, pool_size: int = 5, pool_timeout: float = 30.0, echo: bool = False) -> None:
        self.engine = open_engine(url, pool_size=pool_size, pool_timeout=pool_timeout, echo=echo)
        self._reader = for_reading(self.engine)
        self._open = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """All or nothing for what is written inside; an exception undoes it. Not to be nested.

        Raises: DatabaseUnavailable for a passing fault, after which the whole transaction may be begun anew.
        """
        if getattr(self._open, "session", None) is not None:
            raise RuntimeError("a transaction is open in this thread: transactions are not nested")
        with self._faults_named(), HubSession(self.engine, expire_on_commit=False) as session:
            transaction = SqlTransaction(session)
            self._open.session = session
            try:
                yield transaction
                if transaction.rolled_back:
                    session.rollback()
                else:
                    session.commit()  # the one place that commits
            finally:
                self._open.session = None

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction of its own; up to six times, with growing jittered pauses, if it must be."""
        for attempt in range(1, _TRIES + 1):
            try:
                with self.transaction() as transaction:
                    return work(transaction)
            except DatabaseUnavailable:
                if attempt == _TRIES:
                    raise
                time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311  # jitter, not a secret
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Let go of the pool's connections."""
        self.engine.dispose()

    def settle(self) -> None:
        """Have all that SQLite has committed in its one file, whoever else has that open. Servers see to it themselves.

        Raises: DatabaseUnavailable.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with self._faults_named(), self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            [is_busy, _, _] = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise DatabaseUnavailable("somebody still reads the database, or writes to it")

    def forget_connections(self) -> None:
        """Leave the parent's connections alone after a fork: they are its own, and still in use."""
        self.engine.dispose(close=False)

    def _is_left_behind(self) -> bool:
        """Whether the schema was migrated meanwhile to one that this code may not work on."""
        return False

    # --- for the connector's other parts ----------------------------------------------------------

    def _session(self, method: str) -> Session:
        """The open transaction's session. Raises: TransactionRequired."""
        session: Session | None = getattr(self._open, "session", None)
        if session is None:
            raise TransactionRequired(method)
        return session

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        """The open transaction's session, or a short one for reading only."""
        session: Session | None = getattr(self._open, "session", None)
        if session is not None:
            yield session
            return
        with self._faults_named(), Session(self._reader) as session:
            yield session

    def _all(self, statement: Select[Row]) -> Sequence[Row]:
        """The rows as the database has them now, whatever the session remembers."""
        with self._reading() as session:
            return session.scalars(statement, execution_options={"populate_existing": True}).all()

    def _first(self, statement: Select[Row]) -> Row | None:
        with self._reading() as session:
            return session.scalars(statement, execution_options={"populate_existing": True}).first()

    def _changed(self, method: str, statement: Executable) -> int:
        """Carry out a guarded UPDATE; how many rows met its precondition."""
        session = self._session(method)
        found = session.execute(statement, execution_options={"synchronize_session": False})
        assert isinstance(found, CursorResult)
        return found.rowcount

    def _added(self, method: str, row: Row) -> Row | None:
        """Insert the row; None if one of its unique values is taken (the transaction goes on)."""
        session = self._session(method)
        try:
            with session.begin_nested():
                self._place_beside(session, row)
                session.add(row)
                session.flush()
        except IntegrityError as error:
            if not is_unique(error):
                raise
            return None
        return row

    def _place_beside(self, session: Session, row: Base) -> None:
        """Before a row is inserted, in its savepoint: where somebody else's tables stand beside the hub's, the row that
        means the same is written there first, and gives this one its id."""

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if is_passing(error):
                raise DatabaseUnavailable(f"the database can't be used now: {error.orig}") from error
            if isinstance(error, (OperationalError, ProgrammingError)) and self._is_left_behind():
                # A column is gone that this code knows: whoever is newer can do what it can't.
                raise DatabaseUnavailable(f"this version is too old for the database by now: {error.orig}") from error
            raise
        except PoolTimeout as error:
            raise DatabaseUnavailable(f"no database connection became free: {error}") from error
