"""A model's policy in FMA's row and in the hub's: what was changed on one side is brought to the other.

Three are compared: FMA's, the hub's, and the one that both last had (docs/decisions/0009). All in the hub's words;
FMA's are `""` for no requirement, a list by position for arguments, and a schedule's repeats for the pause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row, Select, insert, select, update
from sqlalchemy.orm import Session

from connectors.django.tables import MODELS, SCHEDULES
from connectors.records import FederatedModel
from connectors.sql.rows import FmaModelRow
from connectors.sql.rows.base import now

_LONGEST_NAME: Final = 200  # the hub's; FMA's may have 255
_SHARED: Final = (
    "name",
    "aggregator",
    "requirement",
    "requirement_args",
    "furthest_base_agg",
    "update_schema",
    "client_agg_results_schema",
)
_FOREVER, PAUSED = -1, 0  # a schedule's repeats

FOUND: Final[Select[Any]] = select(
    *(MODELS.c[name] for name in ("id", "created_on", "developer_id", "scheduler_id", *_SHARED)), SCHEDULES.c.repeats
).outerjoin(SCHEDULES, SCHEDULES.c.id == MODELS.c.scheduler_id)
_COMPARED: Final[Select[Any]] = FOUND.add_columns(FmaModelRow.seen).outerjoin(
    FmaModelRow, FmaModelRow.model_id == MODELS.c.id
)


def policy_of(row: Row[Any]) -> dict[str, Any]:
    """What FMA's row says, in the hub's words. Without a schedule it says nothing of a pause."""
    policy = {name: getattr(row, name) for name in _SHARED}
    policy["name"] = row.name[:_LONGEST_NAME]
    policy["requirement"] = row.requirement or None
    policy["requirement_args"] = by_position(row.requirement_args)
    if row.repeats is not None:
        policy["allow_aggregation"] = row.repeats != PAUSED
    return policy


def policy_of_model(model: FederatedModel) -> dict[str, Any]:
    """What FMA's row is to say of a model that the hub makes: it has no schedule."""
    policy = {name: getattr(model, name) for name in _SHARED}
    return policy | {"requirement_args": by_position(model.requirement_args)}


def by_position(arguments: Any) -> list[Any] | None:
    """A requirement's arguments as FMA keeps them; none at all are null."""
    if arguments is None:
        return None
    return list(arguments.values() if isinstance(arguments, Mapping) else arguments) or None


def as_columns(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The named fields as columns of FMA's model; its schedule stands elsewhere."""
    columns = {name: value for name, value in policy.items() if name in _SHARED}
    if "requirement" in columns:
        columns["requirement"] = columns["requirement"] or ""
    return columns


def bring_together(session: Session, model: FederatedModel) -> dict[str, Any]:
    """What the hub's row is to take over from FMA's; what the hub has changed was written there meanwhile.

    The hub's row must be locked. FMA's row is gone: nothing, on either side.
    """
    found = session.execute(_COMPARED.where(MODELS.c.id == model.id)).first()
    if found is None:
        return {}
    theirs = policy_of(found)
    ours = policy_of_model(model)
    if "allow_aggregation" in theirs:
        ours["allow_aggregation"] = model.allow_aggregation
    # Forgotten: the hub's word counts.
    seen = theirs if found.seen is None else found.seen
    taken = {name: value for name, value in theirs.items() if value != seen.get(name, value) and value != ours[name]}
    given = {name: value for name, value in ours.items() if name not in taken and value != theirs[name]}
    if given:
        _write(session, found, given)
    if found.seen != (agreed := theirs | given):
        remember(session, model.id, agreed)
    return taken


def remember(session: Session, model_id: int, policy: Mapping[str, Any]) -> None:
    """Note that this is what both sides have now."""
    remembered = session.get(FmaModelRow, model_id)
    if remembered is None:
        session.add(FmaModelRow(model_id=model_id, seen=dict(policy)))
    else:
        remembered.seen = dict(policy)
    session.flush()


def insert_model(session: Session, values: Mapping[str, Any], developer_id: int) -> int:
    """A row of FMA's for a model that the hub makes; its id. Without a schedule: FMA itself is not to aggregate it."""
    moment = now()
    columns = as_columns(values) | {
        "requirement_args": by_position(values["requirement_args"]),
        "created_on": moment,
        "last_modified": moment,
        "developer_id": developer_id,
    }
    statement = insert(MODELS).values(columns)
    model_id: int = session.execute(statement.returning(MODELS.c.id)).scalar_one()
    return model_id


def pause_schedules(session: Session, model_ids: list[int]) -> None:
    """Have FMA show those models as paused."""
    schedules = select(MODELS.c.scheduler_id).where(MODELS.c.id.in_(model_ids))
    session.execute(update(SCHEDULES).where(SCHEDULES.c.id.in_(schedules)).values(repeats=PAUSED))


def _write(session: Session, found: Row[Any], given: Mapping[str, Any]) -> None:
    columns = as_columns(given)
    if columns:
        session.execute(update(MODELS).where(MODELS.c.id == found.id).values(columns | {"last_modified": now()}))
    if "allow_aggregation" in given and found.scheduler_id is not None:
        repeats = _FOREVER if given["allow_aggregation"] else PAUSED
        session.execute(update(SCHEDULES).where(SCHEDULES.c.id == found.scheduler_id).values(repeats=repeats))
