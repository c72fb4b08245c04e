"""What the in-memory connector's parts stand on: the tables, and transactions over them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from connectors.errors import TransactionRequired
from connectors.metadata import BaseMetadataConnector
from connectors.records import (
    AuditAction,
    Client,
    ClientAggregateScore,
    DeadLetter,
    FederatedModel,
    FLKitSlot,
    LogEntry,
    Metric,
    ModelAggregate,
    ModelArtifact,
    ModelRun,
    ModelUpdate,
    OutboxMessage,
    Round,
    Trust,
)

Record = TypeVar("Record")


@dataclass
class Tables:
    """Everything remembered. Records are frozen, so a copy of the dictionaries is a snapshot."""

    models: dict[int, FederatedModel] = field(default_factory=dict)
    clients: dict[int, Client] = field(default_factory=dict)
    registrations: dict[tuple[int, int], None] = field(default_factory=dict)
    updates: dict[int, ModelUpdate] = field(default_factory=dict)
    aggregates: dict[int, ModelAggregate] = field(default_factory=dict)
    artifacts: dict[int, ModelArtifact] = field(default_factory=dict)
    scores: dict[int, ClientAggregateScore] = field(default_factory=dict)
    rounds: dict[tuple[int, int], Round] = field(default_factory=dict)
    trusts: dict[int, Trust] = field(default_factory=dict)
    slots: dict[str, FLKitSlot] = field(default_factory=dict)
    approvals: dict[tuple[int, int], None] = field(default_factory=dict)  # (model, trust)
    runs: dict[tuple[int, UUID], ModelRun] = field(default_factory=dict)
    heard: dict[int, datetime] = field(default_factory=dict)  # by model: the last status that changed nothing
    logs: dict[UUID, LogEntry] = field(default_factory=dict)
    metrics: dict[UUID, Metric] = field(default_factory=dict)
    audit: dict[int, tuple[int, AuditAction, str | None]] = field(default_factory=dict)
    outbox: dict[str, OutboxMessage] = field(default_factory=dict)
    sent: dict[int, datetime] = field(default_factory=dict)
    spent: dict[tuple[int, int | None], int] = field(default_factory=dict)  # (model, sender; 0: all)
    dead_letters: dict[int, DeadLetter] = field(default_factory=dict)

    def copy(self) -> Tables:
        """A snapshot."""
        return Tables(**{f.name: dict(getattr(self, f.name)) for f in fields(self)})


class MemoryTransaction:
    """An open transaction."""

    def __init__(self) -> None:
        self.rolled_back = False

    def set_rollback(self) -> None:
        """Undo everything at the end of the block."""
        self.rolled_back = True


class MemoryTables(BaseMetadataConnector):
    """Metadata in this process's memory. `clock` gives milliseconds; a test may bring its own."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._tables = Tables()
        self._lock = threading.RLock()
        self._owner: int | None = None

    # --- transactions ---------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        if self._owner == threading.get_ident():
            raise RuntimeError("a transaction is open in this thread: transactions are not nested")
        with self._lock:
            before = self._tables.copy()
            transaction = MemoryTransaction()
            self._owner = threading.get_ident()
            try:
                yield transaction
            except BaseException:
                self._tables = before
                raise
            finally:
                self._owner = None
            if transaction.rolled_back:
                self._tables = before

    def _writing(self, method: str) -> Tables:
        if self._owner != threading.get_ident():
            raise TransactionRequired(method)
        return self._tables


def next_id(table: dict[int, Any]) -> int:
    """The row id that comes after the table's last: old ones may have been deleted, the newest never is."""
    return next(reversed(table), 0) + 1


def next_entry_id(table: dict[UUID, Any]) -> int:
    """The same where records are found by their event's id."""
    last = next(reversed(table.values()), None)
    return 1 if last is None else last.id + 1


def insert(table: dict[int, Record], record: Record) -> Record:
    """The record, put in its place."""
    table[record.id] = record  # type: ignore[attr-defined]  # every record here has an id
    return record


def moment() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)
