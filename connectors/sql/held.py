"""Models whose rows a transaction has locked: what was read under the lock stands until its end, and is asked once.

Every round trip counts: a submission alone would ask three times for the same row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

from connectors.sql.rows import FederatedModelRow

_KEY = "held models"


class Held(NamedTuple):
    """Of a locked model: what its entries and updates depend on."""

    run_id: UUID | None
    deleted: bool


class HubSession(Session):
    """A transaction's session. It forgets what it held as soon as it writes to any model's row."""


def hold(session: Session, row: FederatedModelRow) -> None:
    """Remember the row, which was just read under its lock."""
    if isinstance(session, HubSession):
        session.info.setdefault(_KEY, {})[row.id] = Held(row.run_id, row.deleted)


def held_models(session: Session) -> Mapping[int, Held]:
    """By id: the models that this transaction has locked and not written to since."""
    found: Mapping[int, Held] = session.info.get(_KEY, {})
    return found


@event.listens_for(HubSession, "do_orm_execute")
def _forget_at_statements(state: ORMExecuteState) -> None:
    if (state.is_update or state.is_delete) and state.bind_mapper is FederatedModelRow.__mapper__:
        state.session.info.pop(_KEY, None)


@event.listens_for(HubSession, "before_flush")
def _forget_at_changed_rows(session: Session, _context: Any, _instances: Any) -> None:
    if any(isinstance(row, FederatedModelRow) for row in session.dirty):
        session.info.pop(_KEY, None)
