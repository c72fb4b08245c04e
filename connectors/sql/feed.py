"""What others are told: a model's feed, metrics and audit, follow-ups waiting to leave."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, update

from connectors.records import (
    ALL,
    AuditAction,
    FederatedModel,
    Kept,
    LogEntry,
    Metric,
    NewLog,
    NewMetric,
    OutboxMessage,
    WhichRun,
)
from connectors.sql.database import Database
from connectors.sql.entries import keep_logs, keep_metrics
from connectors.sql.mapping import to_log, to_metric, to_outbox_message
from connectors.sql.rows import AuditRow, LogRow, MetricRow, OutboxRow
from connectors.sql.rows.base import now

_AT_ONCE = 1000  # values bound in one question


class Feed(Database):
    """The connector's part for logs, metrics, audit and outbox."""

    def add_log(
        self,
        model: FederatedModel,
        event_type: str,
        *,
        event_id: UUID,
        success: bool = True,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        entry = NewLog(
            model.id, event_id, None, event_type, success=success, global_round=global_round, details=details or {}
        )
        self.add_logs([entry])

    def add_logs(self, entries: Sequence[NewLog]) -> list[Kept]:
        return keep_logs(self._session("add_logs"), entries)

    def add_metrics(self, metrics: Sequence[NewMetric]) -> list[Kept]:
        return keep_metrics(self._session("add_metrics"), metrics)

    def pull_entries(self, event_ids: Collection[UUID]) -> dict[UUID, LogEntry | Metric]:
        asked = sorted(event_ids)
        found: dict[UUID, LogEntry | Metric] = {}
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            for point in self._all(select(MetricRow).where(MetricRow.event_id.in_(some))):
                if point.event_id is not None:
                    found[point.event_id] = to_metric(point)
            for entry in self._all(select(LogRow).where(LogRow.event_id.in_(some))):
                if entry.event_id is not None:
                    found[entry.event_id] = to_log(entry)
        return found

    def pull_logs(
        self,
        model: FederatedModel,
        *,
        after_id: int = 0,
        limit: int = 100,
        run_id: WhichRun = ALL,
        newest_first: bool = False,
    ) -> list[LogEntry]:
        statement = select(LogRow).where(LogRow.model_id == model.id, LogRow.id > after_id)
        if run_id is not ALL:
            statement = statement.where(LogRow.run_id == run_id)
        order = LogRow.id.desc() if newest_first else LogRow.id
        return [to_log(row) for row in self._all(statement.order_by(order).limit(limit))]

    def pull_metrics(self, model: FederatedModel, *, run_id: WhichRun = ALL) -> list[Metric]:
        statement = select(MetricRow).where(MetricRow.model_id == model.id)
        if run_id is not ALL:
            statement = statement.where(MetricRow.run_id == run_id)
        return [to_metric(row) for row in self._all(statement.order_by(MetricRow.id))]

    def add_audit(self, model: FederatedModel, action: AuditAction, user_id: str | None = None) -> None:
        session = self._session("add_audit")
        session.add(AuditRow(model_id=model.id, action=action, user_id=user_id))
        session.flush()

    def pull_audit(self, model: FederatedModel) -> list[tuple[AuditAction, str | None]]:
        rows = self._all(select(AuditRow).where(AuditRow.model_id == model.id).order_by(AuditRow.id))
        return [(AuditAction(row.action), row.user_id) for row in rows]

    def add_outbox_message(
        self,
        key: str,
        task: str,
        payload: Mapping[str, Any],
        *,
        queue: str | None = None,
        model: FederatedModel | None = None,
    ) -> None:
        row = OutboxRow(
            key=key,
            task=task,
            queue=queue,
            payload=dict(payload),
            model_id=None if model is None else model.id,
        )
        self._added("add_outbox_message", row)

    def pull_outbox_messages(self, limit: int = 100) -> list[OutboxMessage]:
        statement = select(OutboxRow).where(OutboxRow.sent_at.is_(None)).order_by(OutboxRow.id).limit(limit)
        return [to_outbox_message(row) for row in self._all(statement)]

    def register_outbox_messages_sent(self, messages: Sequence[OutboxMessage]) -> None:
        self._changed(
            "register_outbox_messages_sent",
            update(OutboxRow)
            .where(OutboxRow.id.in_([m.id for m in messages]), OutboxRow.sent_at.is_(None))
            .values(sent_at=now(), attempts=OutboxRow.attempts + 1),
        )
