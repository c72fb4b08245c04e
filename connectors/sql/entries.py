"""Entries of feed and metrics, written by the batch: each `event_id` once, whoever else writes at the same moment.

Once in its own table, and not if the other one has it. Only the first is a constraint: a line and a point under one id
that two transactions write at the very same moment are both kept. A table of ids would close that, and cost every entry
a second row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    Executable,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from connectors.records import Kept, LogEntry, Metric, NewLog, NewMetric
from connectors.repeats import first_of_each, is_same_log, is_same_metric, what_became
from connectors.sql.engine import is_unique
from connectors.sql.held import held_models
from connectors.sql.mapping import to_log, to_metric
from connectors.sql.rows import Base, FederatedModelRow, LogRow, MetricRow
from connectors.sql.rows.base import now

New = TypeVar("New", NewLog, NewMetric)
Standing = TypeVar("Standing", LogEntry, Metric)

_LOGS = Base.metadata.tables[LogRow.__tablename__]
_METRICS = Base.metadata.tables[MetricRow.__tablename__]

# Values bound in one question: below what any of the databases takes.
_AT_ONCE = 1000
_TRIES = 5


def keep_logs(session: Session, entries: Sequence[NewLog]) -> list[Kept]:
    """Write the entries that are new, in this order; what became of each.

    The models' rows stay locked until the transaction ends, so that a model's entries become visible in the order of
    their ids; deletion waits for them.
    """
    runs = _live_models(session, entries, select(FederatedModelRow).with_for_update(key_share=True))
    return _keep(session, _LOGS, entries, runs, _log_values, to_log, is_same_log)


def keep_metrics(session: Session, metrics: Sequence[NewMetric]) -> list[Kept]:
    """Write the points that are new, in this order; what became of each.

    The models' rows are shared until the transaction ends: others write under them at the same time, and only their
    deletion waits.
    """
    runs = _live_models(session, metrics, select(FederatedModelRow).with_for_update(read=True, key_share=True))
    return _keep(session, _METRICS, metrics, runs, _metric_values, to_metric, is_same_metric)


def _live_models(
    session: Session, entries: Sequence[NewLog | NewMetric], locked: Select[FederatedModelRow]
) -> dict[int, UUID | None]:
    """By id, the present run of each model that is not deleted; locked by ascending id: no two wait in a ring."""
    held = held_models(session)
    asked = {entry.model_id for entry in entries}
    ids = sorted(asked - held.keys())
    columns = (FederatedModelRow.id, FederatedModelRow.run_id, FederatedModelRow.deleted)
    live = {model_id: held[model_id].run_id for model_id in asked & held.keys() if not held[model_id].deleted}
    for start in range(0, len(ids), _AT_ONCE):
        statement = locked.with_only_columns(*columns).where(FederatedModelRow.id.in_(ids[start : start + _AT_ONCE]))
        for model_id, run_id, deleted in session.execute(statement.order_by(FederatedModelRow.id)):
            if not deleted:
                live[model_id] = run_id
    return live


def _log_values(entry: NewLog, run_id: UUID | None) -> dict[str, Any]:
    return {
        "event_id": entry.event_id,
        "model_id": entry.model_id,
        "run_id": entry.run_id or run_id,
        "trust_id": entry.trust_id,
        "fl_client_name": entry.fl_client_name,
        "event_type": entry.event_type,
        "log": entry.log,
        "success": entry.success,
        "global_round": entry.global_round,
        "details": dict(entry.details),
    }


def _metric_values(metric: NewMetric, run_id: UUID | None) -> dict[str, Any]:
    return {
        "event_id": metric.event_id,
        "model_id": metric.model_id,
        "run_id": metric.run_id or run_id,
        "trust_id": metric.trust_id,
        "fl_client_name": metric.fl_client_name,
        "label": metric.label,
        "x_label": metric.x_label,
        "x_value": metric.x_value,
        "result": metric.result,
        "global_round": metric.global_round,
    }


def _keep(
    session: Session,
    table: Table,
    entries: Sequence[New],
    runs: Mapping[int, UUID | None],
    to_values: Callable[[New, UUID | None], dict[str, Any]],
    to_record: Callable[[Any], Any],
    is_same: Callable[[New, Any], bool],
) -> list[Kept]:
    firsts = first_of_each(entries, runs)
    other = _METRICS if table is _LOGS else _LOGS
    made = now()
    values = [to_values(first, runs[first.model_id]) | {"created_at": made} for first in firsts.values()]
    written = _insert_new(session, table, other, values) if values else set()
    standing = {}
    for some in _pages([event_id for event_id in firsts if event_id not in written]):
        # Columns, not objects: a batch that is delivered again is as large as it was.
        for found in session.execute(select(*table.columns).where(table.c.event_id.in_(some))):
            record = to_record(found)
            standing[record.event_id] = record
    return what_became(entries, runs, standing, is_same, firsts.keys() - written - standing.keys())


def _insert_new(session: Session, table: Table, other: Table, values: list[dict[str, Any]]) -> set[UUID]:
    """Insert those whose event is not there yet, nor in the other table; their event ids."""
    if session.connection().dialect.name == "postgresql":
        entries = json.dumps([{"place": place, **value} for place, value in enumerate(values)], default=str)
        return set(session.scalars(_statement(table, other), {"entries": entries}))
    # MariaDB's INSERT IGNORE would also cut what is too long, and SQLite lets nobody in between: look, insert the rest,
    # and look again if somebody else was quicker.
    for attempt in range(1, _TRIES + 1):
        there: set[UUID] = set()
        for some in _pages([value["event_id"] for value in values]):
            # One question to both: an update's entries would feel a second one.
            asked = [select(each.c.event_id).where(each.c.event_id.in_(some)) for each in (table, other)]
            there.update(session.scalars(union_all(*asked)))
        missing = [value for value in values if value["event_id"] not in there]
        try:
            with session.begin_nested():
                if missing:
                    session.execute(insert(table), missing)
        except IntegrityError as error:
            if not is_unique(error) or attempt == _TRIES:
                raise
            continue
        return {value["event_id"] for value in missing}
    raise AssertionError("unreachable")


@cache
def _statement(table: Table, other: Table) -> Executable:
    """PostgreSQL's INSERT of a whole batch, which comes as one JSON text: a tenth of the work that a thousand rows of
    bound values make here, and a third of the time."""
    columns = [each for each in table.columns if not each.primary_key]
    entries = cast(bindparam("entries", type_=Text), postgresql.JSON)
    batch = (
        func.json_to_recordset(entries)
        .table_valued(column("place", Integer), *(column(each.name, each.type) for each in columns))
        .render_derived(name="batch", with_types=True)
    )
    is_elsewhere = select(other.c.event_id).where(other.c.event_id == batch.c.event_id).exists()
    chosen = select(*(batch.c[each.name] for each in columns)).where(~is_elsewhere).order_by(batch.c.place)
    return (
        postgresql.insert(table)
        .from_select([each.name for each in columns], chosen, include_defaults=False)
        .on_conflict_do_nothing(index_elements=["event_id"])
        .returning(table.c.event_id)
    )


def _pages(ids: Sequence[UUID]) -> list[Sequence[UUID]]:
    return [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]
