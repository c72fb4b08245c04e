"""The in-memory connector's part for logs and metrics, and what is read out of them: progress, silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from connectors.memory_tables import MemoryTables, moment, next_entry_id
from connectors.progress_facts import ROUNDS_TIMED, as_total, is_drop, sender_of
from connectors.records import (
    ALL,
    CLAIMABLE_STATUSES,
    FederatedModel,
    Kept,
    LogEntry,
    Metric,
    ModelStatus,
    NewLog,
    NewMetric,
    ProgressFacts,
    Sender,
    WhichRun,
)
from connectors.repeats import is_same_log, is_same_metric, what_became


class MemoryFeed(MemoryTables):
    """What runs tell."""

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
        tables = self._writing("add_logs")
        live = {model.id: model for model in tables.models.values() if not model.deleted}
        became = what_became(entries, live, tables.logs, is_same_log, tables.metrics)
        for entry, kept in zip(entries, became, strict=True):
            if kept is Kept.NEW:
                values = {f.name: getattr(entry, f.name) for f in fields(entry)}
                values["run_id"] = entry.run_id or live[entry.model_id].run_id
                tables.logs[entry.event_id] = LogEntry(id=next_entry_id(tables.logs), created_at=moment(), **values)
        return became

    def add_metrics(self, metrics: Sequence[NewMetric]) -> list[Kept]:
        tables = self._writing("add_metrics")
        live = {model.id: model for model in tables.models.values() if not model.deleted}
        became = what_became(metrics, live, tables.metrics, is_same_metric, tables.logs)
        for metric, kept in zip(metrics, became, strict=True):
            if kept is Kept.NEW:
                values = {f.name: getattr(metric, f.name) for f in fields(metric)}
                values["run_id"] = metric.run_id or live[metric.model_id].run_id
                ident = next_entry_id(tables.metrics)
                tables.metrics[metric.event_id] = Metric(id=ident, created_at=moment(), **values)
        return became

    def pull_entries(self, event_ids: Collection[UUID]) -> dict[UUID, LogEntry | Metric]:
        there: dict[UUID, LogEntry | Metric] = {**self._tables.metrics, **self._tables.logs}
        return {event_id: there[event_id] for event_id in event_ids if event_id in there}

    def pull_logs(
        self,
        model: FederatedModel,
        *,
        after_id: int = 0,
        limit: int = 100,
        run_id: WhichRun = ALL,
        newest_first: bool = False,
    ) -> list[LogEntry]:
        found = [e for e in self._tables.logs.values() if e.model_id == model.id and e.id > after_id]
        found = [e for e in found if run_id is ALL or e.run_id == run_id]
        return found[::-1][:limit] if newest_first else found[:limit]

    def pull_metrics(self, model: FederatedModel, *, run_id: WhichRun = ALL) -> list[Metric]:
        found = [m for m in self._tables.metrics.values() if m.model_id == model.id]
        return [m for m in found if run_id is ALL or m.run_id == run_id]

    def pull_progress_facts(self, model: FederatedModel, run_id: UUID | None) -> ProgressFacts:
        entries = self.pull_logs(model, limit=2**63, run_id=run_id)
        started = [e for e in entries if e.event_type == "ROUND_STARTED"]
        aggregated = [e for e in entries if e.event_type == "ROUND_AGGREGATED"]
        rounds = sorted({e.global_round for e in (*started, *aggregated) if e.global_round is not None})
        newest = rounds[-ROUNDS_TIMED:]
        totals = [total for e in started if (total := as_total(e.details)) is not None]
        returned: dict[Sender, int] = {}
        dropped: dict[Sender, int] = {}
        started_round = max((e.global_round or 0 for e in started), default=0)
        for entry in entries:
            sender = sender_of(entry.trust_id, entry.fl_client_name)
            if sender is None:
                continue
            if is_drop(entry.event_type, entry.success):
                at = started_round if entry.global_round is None else entry.global_round
                dropped[sender] = max(dropped.get(sender, 0), at)
            elif entry.event_type == "CLIENT_RESULT_RECEIVED":
                returned[sender] = max(returned.get(sender, 0), entry.global_round or 0)
        return ProgressFacts(
            total_rounds=max(totals, default=None),
            started_round=started_round,
            aggregated_round=max((e.global_round or 0 for e in aggregated), default=0),
            round_times=tuple((number, _first(started, number), _first(aggregated, number)) for number in newest),
            returned=returned,
            dropped=dropped,
            last_event_at=self._last_heard(model, run_id),
        )

    def pull_silent_models(self, now: datetime) -> list[tuple[FederatedModel, datetime]]:
        silent = []
        for model in self._tables.models.values():
            is_held = model.lease_until is not None and model.lease_until >= self._clock()
            is_under_way = model.status in CLAIMABLE_STATUSES - {ModelStatus.PENDING}
            if model.silence_timeout is None or model.deleted or is_held or not is_under_way:
                continue
            words = [self._last_heard(model, model.run_id), self._tables.heard.get(model.id)]
            heard = max((word for word in words if word is not None), default=model.updated_at)
            assert heard is not None
            if (now - heard).total_seconds() > model.silence_timeout:
                silent.append((model, heard))
        return silent

    def _last_heard(self, model: FederatedModel, run_id: UUID | None) -> datetime | None:
        tables = self._tables
        entries: list[LogEntry | Metric] = [*tables.logs.values(), *tables.metrics.values()]
        times = [e.created_at for e in entries if e.model_id == model.id and e.run_id == run_id and e.created_at]
        return max(times, default=None)


def _first(entries: Iterable[LogEntry], number: int) -> datetime | None:
    return min((e.created_at for e in entries if e.global_round == number and e.created_at), default=None)
