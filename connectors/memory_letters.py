"""The in-memory connector's part for refused messages, and for what is deleted once it is old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from connectors.memory_tables import MemoryTables, Tables, insert, moment, next_id
from connectors.records import DeadLetter, DeadLetterOutcome, Retained, RoundState


class MemoryLetters(MemoryTables):
    """Dead letters and retention."""

    def add_dead_letter(self, task: str, payload: Any, *, kind: str, field: str | None, reason: str) -> None:
        letters = self._writing("add_dead_letter").dead_letters
        insert(letters, DeadLetter(next_id(letters), task, payload, kind, field, reason, moment()))

    def pull_dead_letters(self, *, after_id: int = 0, limit: int = 100, is_open: bool = False) -> list[DeadLetter]:
        letters = self._tables.dead_letters.values()
        return [each for each in letters if each.id > after_id and not (is_open and each.outcome)][:limit]

    def pull_dead_letter(self, letter_id: int) -> DeadLetter | None:
        return self._tables.dead_letters.get(letter_id)

    def settle_dead_letter(
        self, letter: DeadLetter, outcome: DeadLetterOutcome, user_id: str | None = None, reason: str | None = None
    ) -> bool:
        letters = self._writing("settle_dead_letter").dead_letters
        found = letters.get(letter.id)
        if found is None or found.outcome is not None:
            return False
        letters[letter.id] = replace(
            found, outcome=outcome, settled_at=moment(), settled_by=user_id, settled_reason=reason
        )
        return True

    def delete_old_records(self, kind: Retained, before: datetime, limit: int = 500) -> int:
        tables = self._writing("delete_old_records")
        old = [(table, key) for table, key, at in _moments(tables, kind) if at is not None and at < before][:limit]
        for table, key in old:
            del table[key]
        return len(old)


def _moments(tables: Tables, kind: Retained) -> Iterator[tuple[dict[Any, Any], Any, datetime | None]]:
    """(table, key, when it was over) of every record of the kind."""
    match kind:
        case Retained.SENT:
            newest = max((message.id for message in tables.outbox.values()), default=0)
            for key, message in tables.outbox.items():
                yield tables.outbox, key, tables.sent.get(message.id) if message.id < newest else None
        case Retained.ROUNDS:
            for place, each in tables.rounds.items():
                yield tables.rounds, place, None if each.state is RoundState.CLAIMED else each.finished_at
        case Retained.DEAD_LETTERS:
            yield from _created(tables.dead_letters)
        case Retained.LOGS:
            yield from _created(tables.logs)
        case Retained.METRICS:
            yield from _created(tables.metrics)


def _created(table: dict[Any, Any]) -> Iterator[tuple[Any, Any, datetime | None]]:
    newest = max((record.id for record in table.values()), default=0)
    for key, record in table.items():
        yield table, key, record.created_at if record.id < newest else None
