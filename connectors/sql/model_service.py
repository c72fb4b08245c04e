"""The model service (DESIGN 1.2): functions on a caller's Session.

None of them commits, and none rolls back the caller's work: what one of them writes, audit and all, stands or falls
with the transaction that the caller has open. Each locks the model's row before it decides. A deleted model counts as
missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from connectors.records import AuditAction, ModelStatus, NewLog, StatusChange, Trust
from connectors.run_states import FAILED_STATUSES, FINAL, Ignored, as_status, decide, event_id_of
from connectors.sql.entries import keep_logs
from connectors.sql.mapping import to_model, to_trust
from connectors.sql.rows import AuditRow, FederatedModelRow, FLKitSlotRow, LogRow, ModelRunRow, TrustRow
from connectors.sql.rows.base import now

ModelId = UUID | int | str  # the UUID, or the row's id
_AT_ONCE = 1000  # values bound in one question


def update_model_status(
    model_id: ModelId,
    status: ModelStatus | str | None,
    session: Session,
    user_id: UUID | str | None = None,
    *,
    run_id: UUID | None = None,
    event_id: UUID | None = None,
) -> ModelStatus | None:
    """The status that stands afterwards; None if there is no such model. `status` None keeps it.

    Late, backward, repeated and stale-run statuses change nothing. See `change_status`, which also says why.
    """
    change = change_status(model_id, status, session, user_id=user_id, run_id=run_id, event_id=event_id)
    return None if change is None or change.model.deleted else change.model.status


def change_status(
    model_id: ModelId,
    status: ModelStatus | str | None,
    session: Session,
    *,
    user_id: UUID | str | None = None,
    run_id: UUID | None = None,
    event_id: UUID | None = None,
    details: Mapping[str, Any] | None = None,
) -> StatusChange | None:
    """What a status did to the model, decided on its locked row; None if there is no such model.

    A change writes the model, its run, one audit row and one entry of the feed, whose id is `event_id`, or follows from
    run and status. An event that is in the feed already changes nothing. Raises: ValueError for an unknown status.
    """
    row = _locked(session, model_id)
    if row is None:
        return None
    if row.deleted:
        return StatusChange(to_model(row), False, Ignored.DELETED)
    if status is None:
        return StatusChange(to_model(row), False)
    to = as_status(status)
    if event_id is not None:
        seen = session.execute(select(LogRow.model_id, LogRow.event_type).where(LogRow.event_id == event_id)).first()
        if seen is not None:
            is_same = tuple(seen) == (row.id, to)
            return StatusChange(to_model(row), False, Ignored.REPEATED if is_same else Ignored.REUSED)
    same_run = select(ModelRunRow.run_id).where(ModelRunRow.model_id == row.id, ModelRunRow.run_id == run_id)
    known = set(session.scalars(same_run))
    decision = decide(ModelStatus(row.status), row.run_id, known, to, run_id, by_user=user_id is not None)
    if not decision.change:
        return StatusChange(to_model(row), False, decision.reason)
    _note_run(session, row, to, decision.new_run)
    row.status = to
    row.run_id = decision.new_run or row.run_id
    if to in AuditAction.__members__:
        _audit(session, row.id, AuditAction[to], user_id)
    session.flush()
    own_id = event_id_of(row.uuid, row.run_id, to)
    success = to not in FAILED_STATUSES
    entry = NewLog(row.id, event_id or own_id, row.run_id, to, success=success, details=details or {})
    keep_logs(session, [entry])
    return StatusChange(to_model(row), True)


def _note_run(session: Session, row: FederatedModelRow, status: ModelStatus, new_run: UUID | None) -> None:
    """Keep the row of the model's run up to date; end the one before if another begins. Without a name it has none."""
    runs = session.scalars(
        select(ModelRunRow).where(
            ModelRunRow.model_id == row.id, ModelRunRow.run_id.in_([run for run in (row.run_id, new_run) if run])
        )
    ).all()
    by_id = {run.run_id: run for run in runs}
    if new_run is not None and row.run_id is not None and row.run_id in by_id:
        by_id[row.run_id].finished_at = by_id[row.run_id].finished_at or now()
    run_id = new_run or row.run_id
    if run_id is None:
        return
    found = by_id.get(run_id)
    if found is None:
        last = session.scalar(select(func.max(ModelRunRow.number)).where(ModelRunRow.model_id == row.id))
        found = ModelRunRow(model_id=row.id, run_id=run_id, number=(last or 0) + 1)
        session.add(found)
    found.status = status
    found.finished_at = now() if status in FINAL else None


def delete_all(session: Session, which: ColumnElement[bool], user_id: UUID | str | None) -> int:
    """Delete the models that `which` selects and that are not deleted, each with its audit row; how many they were."""
    # FOR UPDATE, in ascending order: it waits even for those who only share the row, and write under it.
    locked = (
        select(FederatedModelRow)
        .where(which, FederatedModelRow.deleted.is_(False))
        .order_by(FederatedModelRow.id)
        .with_for_update()
    )
    session.flush()
    rows = session.scalars(locked, execution_options={"populate_existing": True}).all()
    for row in rows:
        row.deleted = True
        _audit(session, row.id, AuditAction.DELETE, user_id)
    session.flush()
    return len(rows)


def trusts_of_slots(session: Session, fl_client_names: Collection[str]) -> dict[str, Trust]:
    """By slot name: the trust it is assigned to. Unknown and unassigned names are left out."""
    names = sorted(set(fl_client_names))
    found = {}
    for start in range(0, len(names), _AT_ONCE):
        statement = (
            select(FLKitSlotRow.fl_client_name, TrustRow)
            .join(TrustRow, TrustRow.id == FLKitSlotRow.trust_id)
            .where(FLKitSlotRow.fl_client_name.in_(names[start : start + _AT_ONCE]))
        )
        for name, row in session.execute(statement):
            found[name] = to_trust(row)
    # MariaDB finds "Site" for "site": they are two names.
    return {name: found[name] for name in names if name in found}


# --- parts ----------------------------------------------------------------------------------------


def _which(model_id: ModelId) -> ColumnElement[bool] | None:
    """SQL for the model that is meant; None if nothing can be meant."""
    if isinstance(model_id, str):
        if model_id.isdecimal():
            return FederatedModelRow.id == int(model_id)
        try:
            model_id = UUID(model_id)
        except ValueError:
            return None
    return FederatedModelRow.uuid == model_id if isinstance(model_id, UUID) else FederatedModelRow.id == model_id


def _locked(session: Session, model_id: ModelId) -> FederatedModelRow | None:
    """The model's row as it stands, locked until the caller's transaction ends, deleted or not."""
    which = _which(model_id)
    if which is None:
        return None
    session.flush()  # what the caller has changed on the row and not sent yet would be overwritten
    statement = select(FederatedModelRow).where(which).with_for_update(key_share=True)
    return session.scalars(statement, execution_options={"populate_existing": True}).first()


def _audit(session: Session, model_id: int, action: AuditAction, user_id: UUID | str | None) -> None:
    session.add(AuditRow(model_id=model_id, action=action, user_id=None if user_id is None else str(user_id)))
