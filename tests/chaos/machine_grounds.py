"""What the domain's machine stands on: a connector of an example's own, its rows read past it, its clock turned."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from uuid import UUID

import psycopg
import structlog

from connectors.memory import InMemoryMetadataConnector
from connectors.metadata import BaseMetadataConnector
from connectors.sql.connector import SqlAlchemyMetadataConnector
from tests.chaos.facts import Facts, read_facts
from tests.chaos.machine_rows import rows_in

_TURN = (
    "UPDATE federated_model SET lease_until = lease_until - {0}",
    "UPDATE model_update SET not_before = CASE WHEN not_before > {0} THEN not_before - {0} ELSE 0 END",
)


class Ground(ABC):
    """One place of a hub's metadata, empty at first."""

    metadata: BaseMetadataConnector

    @abstractmethod
    def facts(self) -> Facts:
        """What it holds, read past the connector."""

    @abstractmethod
    def points(self) -> list[UUID]:
        """The event ids of all points of metrics, read past the connector."""

    @abstractmethod
    def turn(self, milliseconds: int) -> None:
        """Turn the clock by which leases and rests are measured."""

    def close(self) -> None:
        """Let go of it."""
        self.metadata.close()


class MemoryGround(Ground):
    """The reference connector, whose clock is turned."""

    def __init__(self, folder: Path) -> None:
        self._clock = 1_000_000
        self._connector = InMemoryMetadataConnector(clock=lambda: self._clock)
        self.metadata = self._connector

    def facts(self) -> Facts:
        return rows_in(self._connector)

    def points(self) -> list[UUID]:
        return list(self._connector._tables.metrics)

    def turn(self, milliseconds: int) -> None:
        self._clock += milliseconds


class SqliteGround(Ground):
    """A real file: instead of the database's clock, what is compared with it is moved."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "hub.db"
        shutil.copy(migrated(), self._path)
        self.metadata = SqlAlchemyMetadataConnector(f"sqlite:///{self._path}")

    def facts(self) -> Facts:
        return read_facts(f"sqlite:///{self._path}")

    def points(self) -> list[UUID]:
        with closing(sqlite3.connect(self._path, timeout=30)) as file:
            return [UUID(event_id) for (event_id,) in file.execute("SELECT event_id FROM model_metric")]

    def turn(self, milliseconds: int) -> None:
        with closing(sqlite3.connect(self._path, timeout=30)) as file:
            for statement in _TURN:
                file.execute(statement.format(milliseconds))
            file.commit()


class PostgresGround(Ground):
    """A migrated database of its own on a real server; again what is compared with its clock is moved."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.metadata = SqlAlchemyMetadataConnector(url)

    def facts(self) -> Facts:
        return read_facts(self._url)

    def points(self) -> list[UUID]:
        with self._asked() as server:
            return [event_id for (event_id,) in server.execute("SELECT event_id FROM model_metric")]

    def turn(self, milliseconds: int) -> None:
        with self._asked() as server:
            for statement in _TURN:
                server.execute(statement.format(milliseconds))

    def _asked(self) -> psycopg.Connection:
        return psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True)


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for one example: in memory where there is such a place, for every blob is synced to the disk."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fedqueue-machine-", dir=place) as folder:
        yield Path(folder)


@contextmanager
def quietly() -> Iterator[None]:
    """Thousands of refusals and postponements a second, as they are meant to be, are nothing to log."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        structlog.configure(**before)


@cache
def migrated() -> Path:
    """An empty database with the schema; made once, for a migration takes longer than an example."""
    path = Path(tempfile.mkdtemp(prefix="fedqueue-machine-")) / "hub.db"
    metadata = SqlAlchemyMetadataConnector(f"sqlite:///{path}")
    metadata.update_database()
    metadata.close()
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path
