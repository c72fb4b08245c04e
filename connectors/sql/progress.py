"""What a run's entries say of its progress, and which runs say nothing any more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from connectors.progress_facts import CLIENT_EVENTS, DROPPED, ROUNDS_TIMED, TOTAL, as_total, sender_of
from connectors.records import CLAIMABLE_STATUSES, FederatedModel, ModelStatus, ProgressFacts, Sender
from connectors.sql.clock import now_ms
from connectors.sql.database import Database
from connectors.sql.mapping import to_model
from connectors.sql.rows import FederatedModelRow, LogRow, MetricRow

_STARTED, _AGGREGATED, _RETURNED = "ROUND_STARTED", "ROUND_AGGREGATED", "CLIENT_RESULT_RECEIVED"


class Progress(Database):
    """The connector's part for progress and silence."""

    def pull_progress_facts(self, model: FederatedModel, run_id: UUID | None) -> ProgressFacts:
        of_run = and_(LogRow.model_id == model.id, LogRow.run_id == run_id)
        with self._reading() as session:
            newest = _newest_rounds(session, of_run)
            return ProgressFacts(
                total_rounds=_total_rounds(session, of_run),
                started_round=newest.get(_STARTED, 0),
                aggregated_round=newest.get(_AGGREGATED, 0),
                round_times=_round_times(session, of_run),
                returned=_returned(session, of_run),
                dropped=_dropped(session, of_run, newest.get(_STARTED, 0)),
                last_event_at=_last_heard(session, model.id, run_id),
            )

    def pull_silent_models(self, now: datetime) -> list[tuple[FederatedModel, datetime]]:
        statement = (
            select(FederatedModelRow)
            .where(
                FederatedModelRow.silence_timeout.is_not(None),
                FederatedModelRow.deleted.is_(False),
                FederatedModelRow.status.in_(list(CLAIMABLE_STATUSES - {ModelStatus.PENDING})),
                FederatedModelRow.lease_until.is_(None) | (FederatedModelRow.lease_until < now_ms()),
            )
            .order_by(FederatedModelRow.id)
        )
        silent = []
        with self._reading() as session:
            for row in session.scalars(statement, execution_options={"populate_existing": True}).all():
                # By two looks into indexes each: who has a timeout, and runs, is few.
                words = [_last_heard(session, row.id, row.run_id), row.heard_at]
                heard = max((word for word in words if word is not None), default=row.updated_at)
                assert row.silence_timeout is not None
                if (now - heard).total_seconds() > row.silence_timeout:
                    silent.append((to_model(row), heard))
        return silent


def _total_rounds(session: Session, of_run: ColumnElement[bool]) -> int | None:
    """The largest total that any start of the run named, however long ago: a server may say it once."""
    # As text: PostgreSQL compares no json. Each value once, since as a rule every start names the same one.
    told = cast(LogRow.details, Text)
    statement = (
        select(told).where(of_run, LogRow.event_type == _STARTED, told.contains(TOTAL, autoescape=True)).distinct()
    )
    totals = [total for details in session.scalars(statement) if (total := as_total(json.loads(details))) is not None]
    return max(totals, default=None)


def _newest_rounds(session: Session, of_run: ColumnElement[bool]) -> dict[str, int]:
    statement = (
        select(LogRow.event_type, func.max(LogRow.global_round))
        .where(of_run, LogRow.event_type.in_([_STARTED, _AGGREGATED]))
        .group_by(LogRow.event_type)
    )
    return {str(event_type): number or 0 for event_type, number in session.execute(statement)}


def _round_times(
    session: Session, of_run: ColumnElement[bool]
) -> tuple[tuple[int, datetime | None, datetime | None], ...]:
    """(round, first start, first aggregate) of the newest rounds, ascending."""
    statement = (
        select(LogRow.global_round, LogRow.event_type, func.min(LogRow.created_at))
        .where(of_run, LogRow.event_type.in_([_STARTED, _AGGREGATED]), LogRow.global_round.is_not(None))
        .group_by(LogRow.global_round, LogRow.event_type)
        .order_by(LogRow.global_round.desc())
        .limit(2 * ROUNDS_TIMED)  # at most two kinds a round
    )
    times: dict[int, dict[str, datetime]] = {}
    for number, event_type, first in session.execute(statement):
        assert number is not None
        times.setdefault(number, {})[str(event_type)] = first
    newest = sorted(times)[-ROUNDS_TIMED:]
    return tuple((number, times[number].get(_STARTED), times[number].get(_AGGREGATED)) for number in newest)


def _returned(session: Session, of_run: ColumnElement[bool]) -> dict[Sender, int]:
    statement = (
        select(LogRow.trust_id, LogRow.fl_client_name, func.max(LogRow.global_round))
        .where(of_run, LogRow.event_type == _RETURNED, LogRow.success.is_(True))
        .group_by(LogRow.trust_id, LogRow.fl_client_name)
    )
    return _maxima(session.execute(statement))


def _dropped(session: Session, of_run: ColumnElement[bool], started_round: int) -> dict[Sender, int]:
    failed = and_(
        LogRow.success.is_(False),
        or_(LogRow.event_type.is_(None), LogRow.event_type.startswith(CLIENT_EVENTS, autoescape=True)),
    )
    # A report that names no round is about the newest that was started, whichever of the two came first.
    at = func.max(func.coalesce(LogRow.global_round, started_round))
    statement = (
        select(LogRow.trust_id, LogRow.fl_client_name, at)
        .where(of_run, or_(LogRow.event_type == DROPPED, failed))
        .group_by(LogRow.trust_id, LogRow.fl_client_name)
    )
    return _maxima(session.execute(statement))


def _maxima(found: Iterable[Any]) -> dict[Sender, int]:
    maxima: dict[Sender, int] = {}
    for trust_id, fl_client_name, number in found:
        sender = sender_of(trust_id, fl_client_name)
        if sender is not None:
            maxima[sender] = max(maxima.get(sender, 0), number or 0)
    return maxima


def _last_heard(session: Session, model_id: int, run_id: UUID | None) -> datetime | None:
    times = []
    for row in (LogRow, MetricRow):
        statement = select(row.created_at).where(row.model_id == model_id, row.run_id == run_id)
        times.append(session.scalar(statement.order_by(row.id.desc()).limit(1)))
    return max((time for time in times if time is not None), default=None)
