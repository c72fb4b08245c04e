"""Refused messages, and what became of them; and what is deleted once it is old."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, delete, func, or_, select, update

from connectors.records import DeadLetter, DeadLetterOutcome, Retained, RoundState
from connectors.sql.database import Database
from connectors.sql.mapping import to_dead_letter
from connectors.sql.rows import DeadLetterRow, LogRow, MetricRow, OutboxRow, RoundRow
from connectors.sql.rows.base import now

# By id these are in the order of their time, as near as matters here: the first that is young ends the search.
_MOMENTS: Final[dict[Retained, Any]] = {
    Retained.SENT: (OutboxRow, OutboxRow.sent_at),
    Retained.DEAD_LETTERS: (DeadLetterRow, DeadLetterRow.created_at),
    Retained.LOGS: (LogRow, LogRow.created_at),
    Retained.METRICS: (MetricRow, MetricRow.created_at),
}


class Letters(Database):
    """The connector's part for dead letters and for retention."""

    def add_dead_letter(self, task: str, payload: Any, *, kind: str, field: str | None, reason: str) -> None:
        session = self._session("add_dead_letter")
        session.add(DeadLetterRow(task=task, payload=payload, kind=kind, field=field, reason=reason))
        session.flush()

    def pull_dead_letters(self, *, after_id: int = 0, limit: int = 100, is_open: bool = False) -> list[DeadLetter]:
        statement = select(DeadLetterRow).where(DeadLetterRow.id > after_id)
        if is_open:
            statement = statement.where(DeadLetterRow.outcome.is_(None))
        return [to_dead_letter(row) for row in self._all(statement.order_by(DeadLetterRow.id).limit(limit))]

    def pull_dead_letter(self, letter_id: int) -> DeadLetter | None:
        row = self._first(select(DeadLetterRow).where(DeadLetterRow.id == letter_id))
        return None if row is None else to_dead_letter(row)

    def settle_dead_letter(
        self, letter: DeadLetter, outcome: DeadLetterOutcome, user_id: str | None = None, reason: str | None = None
    ) -> bool:
        settled = self._changed(
            "settle_dead_letter",
            update(DeadLetterRow)
            .where(DeadLetterRow.id == letter.id, DeadLetterRow.outcome.is_(None))
            .values(outcome=outcome, settled_at=now(), settled_by=user_id, settled_reason=reason),
        )
        return settled == 1

    def delete_old_records(self, kind: Retained, before: datetime, limit: int = 500) -> int:
        if kind is Retained.ROUNDS:
            return self._delete_rounds(before, limit)
        row, moment = _MOMENTS[kind]
        # Where it is the last one, SQLite would give its number again.
        newest = select(func.max(row.id)).scalar_subquery()
        oldest: Select[Any] = (
            select(row.id, moment).where(moment.is_not(None), row.id < newest).order_by(row.id).limit(limit)
        )
        old = []
        for ident, at in self._session("delete_old_records").execute(oldest):
            if at >= before:
                break
            old.append(ident)
        return self._changed("delete_old_records", delete(row).where(row.id.in_(old))) if old else 0

    def _delete_rounds(self, before: datetime, limit: int) -> int:
        is_old = (RoundRow.state != RoundState.CLAIMED, RoundRow.finished_at < before)
        keys = select(RoundRow.model_id, RoundRow.fence).where(*is_old).limit(limit)
        old = list(self._session("delete_old_records").execute(keys).all())
        if not old:
            return 0
        which = or_(*(and_(RoundRow.model_id == model_id, RoundRow.fence == fence) for model_id, fence in old))
        return self._changed("delete_old_records", delete(RoundRow).where(which))
