"""The model service (DESIGN 1.2): functions on a caller's Session.

None of them commits, and none rolls back the caller's work: what one of them writes, audit and all, stands or falls
with the transaction that the caller has open. Each locks the model's row before it decides. A deleted model counts as
missing. Nobody is notified: what changes here writes no message to the outbox, while the hub's own tasks
(fedqueue.models.update_status, delete, …) tell of the same change (docs/notifications.md).

Its length is the service's: ten functions, with their rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Executable, func, null, select, union_all, update
from sqlalchemy.orm import Session

from connectors.model_ids import read_model_id
from connectors.plots import Plot, plots_of
from connectors.records import ALL, AuditAction, Kept, ModelStatus, NewLog, StatusChange, Trust, WhichRun
from connectors.repeats import is_same_run
from connectors.run_states import FAILED_STATUSES, FINAL, Ignored, as_status, decide, event_id_of, is_heard
from connectors.sql.entries import keep_logs
from connectors.sql.mapping import to_metric, to_model, to_trust
from connectors.sql.rows import (
    AuditRow,
    FederatedModelRow,
    FLKitSlotRow,
    LogRow,
    MetricRow,
    ModelRunRow,
    ModelTrustRow,
    TrustRow,
)
from connectors.sql.rows.base import now
from fedqueue.messages import LogMessage, Policy

ModelId = UUID | int | str  # the UUID, or the row's id
_AT_ONCE = 1000  # values bound in one question
_HEARD_EVERY = timedelta(seconds=1)


# What only the hub's rules can check, which know the aggregators and requirements there are.
_CHECKED_BY_THE_HUB = frozenset(
    {
        "aggregator",
        "aggregator_params",
        "requirement",
        "requirement_args",
        "allow_repeats",
        "update_schema",
        "client_agg_results_schema",
    }
)
_EDITABLE = Policy.model_fields.keys() - _CHECKED_BY_THE_HUB - {"v"}


def edit_model(model_id: ModelId, model_details: Any, user_id: UUID | str | None, session: Session) -> None:
    """Change what `model_details` names: a mapping, a pydantic model or any object with such attributes.

    Name, description and whatever else of a model's policy needs no registry to be checked; aggregators, requirements
    and schemas are edited by the task fedqueue.models.edit. Audited if anything changed.
    Raises: ValueError for a model that is missing, a field that can't be edited here, or a value that breaks its rule.
    """
    given = _fields_of(model_details)
    refused = sorted(given.keys() - _EDITABLE)
    if refused:
        raise ValueError(f"edit_model can't set {', '.join(refused)}: it sets {', '.join(sorted(_EDITABLE))}")
    checked = Policy(**given)
    row = _locked(session, model_id)
    if row is None or row.deleted:
        raise _missing(model_id)
    differing = {name: getattr(checked, name) for name in given if getattr(checked, name) != getattr(row, name)}
    if not differing:
        return
    for name, value in differing.items():
        setattr(row, name, value)
    _audit(session, row.id, AuditAction.EDIT, user_id)
    session.flush()


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
    trust_id: int | None = None,
    fl_client_name: str | None = None,
    global_round: int | None = None,
) -> StatusChange | None:
    """What a status did to the model, decided on its locked row; None if there is no such model.

    A change writes the model, its run, one audit row and one entry of the feed, whose id is `event_id`, or follows from
    run and status. An event that is in the feed or the metrics already changes nothing.

    Raises: ValueError for an unknown status.
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
        in_feed = select(LogRow.model_id, LogRow.event_type, LogRow.run_id).where(LogRow.event_id == event_id)
        in_metrics = select(MetricRow.model_id, null(), MetricRow.run_id).where(MetricRow.event_id == event_id)
        told: Executable = union_all(in_feed, in_metrics)
        seen = session.execute(told).first()
        if seen is not None:
            is_same = (seen.model_id, seen.event_type) == (row.id, to) and is_same_run(run_id, seen.run_id)
            return _ignored(session, row, seen.run_id, Ignored.REPEATED if is_same else Ignored.REUSED)
    same_run = select(ModelRunRow.run_id).where(ModelRunRow.model_id == row.id, ModelRunRow.run_id == run_id)
    known = set(session.scalars(same_run))
    decision = decide(ModelStatus(row.status), row.run_id, known, to, run_id, by_user=user_id is not None)
    if not decision.change:
        return _ignored(session, row, run_id, decision.reason)
    _note_run(session, row, to, decision.new_run)
    row.status = to
    row.run_id = decision.new_run or row.run_id
    if to in AuditAction.__members__:
        _audit(session, row.id, AuditAction[to], user_id)
    session.flush()
    own_id = event_id or event_id_of(row.uuid, row.run_id, to)
    entry = NewLog(
        row.id,
        own_id,
        row.run_id,
        to,
        success=to not in FAILED_STATUSES,
        trust_id=trust_id,
        fl_client_name=fl_client_name,
        global_round=global_round,
        details=details or {},
    )
    if keep_logs(session, [entry]) != [Kept.NEW]:
        # Somebody has given that id to something else. A change has its entry all the same.
        keep_logs(session, [replace(entry, event_id=uuid4())])
    return StatusChange(to_model(row), True)


def _ignored(session: Session, row: FederatedModelRow, run_id: UUID | None, reason: str) -> StatusChange:
    """The answer to a status that changed nothing. Of the run under way it is a word all the same: a run is not silent
    that repeats itself. One a second is noted, so that an insistent server costs little."""
    at = now()
    is_news = row.heard_at is None or at - row.heard_at >= _HEARD_EVERY
    if is_news and is_heard(row.run_id, run_id, reason):
        # Nothing that people know of the model has changed: `updated_at` stays.
        noted = update(FederatedModelRow).where(FederatedModelRow.id == row.id)
        kept = FederatedModelRow.updated_at
        session.execute(noted.values(heard_at=at, updated_at=kept), execution_options={"synchronize_session": False})
    return StatusChange(to_model(row), False, reason)


def _note_run(session: Session, row: FederatedModelRow, status: ModelStatus, new_run: UUID | None) -> None:
    """Keep the row of the model's run up to date; end the one before if another begins. Without a name it has none."""
    runs = session.scalars(
        select(ModelRunRow).where(
            ModelRunRow.model_id == row.id, ModelRunRow.run_id.in_([run for run in (row.run_id, new_run) if run])
        ),
        execution_options={"populate_existing": True},
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


def add_log(
    model_id: ModelId,
    log: str | None,
    session: Session,
    success: bool = True,
    trust: Trust | TrustRow | UUID | None = None,
    fl_client_name: str | None = None,
    event_type: str | None = None,
    global_round: int | None = None,
    details: Mapping[str, Any] | None = None,
    *,
    run_id: UUID | None = None,
    event_id: UUID | None = None,
) -> Kept:
    """Add an entry to the model's feed: free text (`log`) or a typed event (`event_type`), never both.

    Without a trust, the one to whom the slot `fl_client_name` is assigned; the name is kept whether or not it is
    anybody's. `event_id` makes a repeat harmless; without it every call is a new entry. `run_id` None: the model's run.
    It is held to the rules of fedqueue.logs.add: names, rounds from 1, details of up to 8 KiB, no status (that is
    `update_model_status`). Nothing has been written when it is refused, so the caller's transaction can go on.
    Raises: ValueError for a missing model, an unknown trust, or an entry that breaks a rule; it names the field.
    """
    if (log is None) == (event_type is None):
        raise ValueError("an entry of the feed is either free text (log) or a typed event (event_type)")
    checked = _checked_entry(
        event_type=event_type,
        log=log,
        success=success,
        fl_client_name=fl_client_name,
        global_round=global_round,
        details={} if details is None else dict(details),
    )
    row_id = _find(session, model_id)
    if row_id is None:
        raise _missing(model_id)
    if trust is None and fl_client_name is not None:
        trust = resolve_trust_from_fl_client_name(fl_client_name, session)
    entry = NewLog(
        row_id,
        event_id or uuid4(),
        run_id,
        checked.event_type,
        checked.log,
        checked.success,
        None if trust is None else _id_of_trust(session, trust),
        fl_client_name,
        checked.global_round,
        checked.details,
    )
    (kept,) = keep_logs(session, [entry])
    if kept is Kept.DELETED:
        raise _missing(model_id)
    return kept


def delete_model(model_id: ModelId, user_id: UUID | str | None, session: Session) -> None:
    """Delete the model: its row stays, and accepts nothing more. Audited.

    Raises: ValueError if there is no such model, or none any more.
    """
    which = _which(model_id)
    if which is None or delete_all(session, which, user_id) == 0:
        raise _missing(model_id)


def delete_models(
    project_id: UUID | str, user_id: UUID | str | None, session: Session, ensure_deletion: bool = True
) -> int:
    """Delete the project's models that are not deleted yet, each with its audit row; how many they were.

    All of them or, if the caller rolls back, none.
    Raises: ValueError if there was none to delete, so that a mistaken project is found out. Whoever deletes a project
    that may be empty, or again, says `ensure_deletion=False` and gets 0.
    """
    deleted = delete_all(session, FederatedModelRow.project_id == str(project_id), user_id)
    if deleted == 0 and ensure_deletion:
        raise ValueError(f"project {project_id} has no model that could be deleted")
    return deleted


def get_model_status(model_id: ModelId, session: Session) -> ModelStatus | None:
    """The model's status; None if there is no such model."""
    which = _which(model_id)
    if which is None:
        return None
    found = session.scalar(select(FederatedModelRow.status).where(which, FederatedModelRow.deleted.is_(False)))
    return None if found is None else ModelStatus(found)


def resolve_trust_from_fl_client_name(fl_client_name: str, session: Session) -> Trust | None:
    """The trust to whom the FL kit slot of that name is assigned; None for an unknown or unassigned one."""
    return trusts_of_slots(session, [fl_client_name]).get(fl_client_name)


def validate_trust_ids(model_id: ModelId, trust_ids: Collection[UUID | str], session: Session) -> bool:
    """Whether every one of these trusts (by UUID, however it is written) is approved for the model.

    False for a missing model, and for text that is no UUID.
    """
    row_id = _find(session, model_id)
    if row_id is None:
        return False
    try:
        asked = {trust_id if isinstance(trust_id, UUID) else UUID(trust_id) for trust_id in trust_ids}
    except (ValueError, TypeError, AttributeError):  # what UUID() says to text that is none, and to what is no text
        return False
    approved = session.scalars(
        select(TrustRow.uuid)
        .join(ModelTrustRow, ModelTrustRow.trust_id == TrustRow.id)
        .where(ModelTrustRow.model_id == row_id)
    )
    return asked <= set(approved)


def get_metrics(model_id: ModelId, session: Session, *, run_id: WhichRun = ALL, per_run: bool = False) -> list[Plot]:
    """The model's plots: one per (label, x_label), in it one series per trust, its points ascending by x, ties in
    the order of their arrival; nothing for a missing model.

    A series is called by its trust's code, else name; trusts are told apart by id, whatever they are called. Points
    without a trust make one series per `fl_client_name`. `run_id`: of that run alone; `per_run`: one series per trust
    and run.
    """
    row_id = _find(session, model_id)
    if row_id is None:
        return []
    statement = select(MetricRow).where(MetricRow.model_id == row_id)
    if run_id is not ALL:
        statement = statement.where(MetricRow.run_id == run_id)
    metrics = [to_metric(row) for row in session.scalars(statement.order_by(MetricRow.id))]
    if not per_run:
        metrics = [replace(metric, run_id=None) for metric in metrics]
    named = {metric.trust_id for metric in metrics if metric.trust_id is not None}
    trusts = session.scalars(select(TrustRow).where(TrustRow.id.in_(named)))
    return plots_of(metrics, [to_trust(row) for row in trusts])


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
    named = read_model_id(model_id)
    if named is None:
        return None
    return FederatedModelRow.uuid == named if isinstance(named, UUID) else FederatedModelRow.id == named


def _find(session: Session, model_id: ModelId) -> int | None:
    """The row id of a model that is not deleted."""
    which = _which(model_id)
    if which is None:
        return None
    return session.scalar(select(FederatedModelRow.id).where(which, FederatedModelRow.deleted.is_(False)))


def _checked_entry(**fields: Any) -> LogMessage:
    """The fields as the wire reads them.

    Raises: ValueError if the wire would refuse an entry of these fields, or a database its text.
    """
    # The ids are the caller's affair: these two stand in for them.
    checked = LogMessage(event_id=UUID(int=0), model_id=UUID(int=0), **fields)
    for name, value in fields.items():
        if _holds_nul(value):
            raise ValueError(f"{name} holds a NUL, which can't be kept")
    return checked


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        return any(_holds_nul(key) or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(map(_holds_nul, value))


def _missing(model_id: ModelId) -> ValueError:
    return ValueError(f"there is no model {model_id}, or it was deleted")


def _id_of_trust(session: Session, trust: Trust | TrustRow | UUID) -> int:
    if not isinstance(trust, UUID):
        return trust.id
    found = session.scalar(select(TrustRow.id).where(TrustRow.uuid == trust))
    if found is None:
        raise ValueError(f"there is no trust {trust}")
    return found


def _fields_of(details: Any) -> dict[str, Any]:
    if isinstance(details, Mapping):
        return dict(details)
    if isinstance(details, BaseModel):
        return details.model_dump(exclude_unset=True, exclude={"v"})
    return asdict(details) if is_dataclass(details) and not isinstance(details, type) else dict(vars(details))


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
