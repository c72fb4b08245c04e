"""The one door through which a model's status changes (DESIGN 4.2): audited, fed and told in one transaction.

Whoever asks, an FL server's callback, a user, or the hub's own rounds: the connector decides on the locked row by
`connectors.run_states`, and writes status, run, audit and feed; what others are told of it is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog

from connectors.records import FederatedModel, ModelStatus, StatusChange
from connectors.run_states import FINAL, may_become, name_of
from tasks.domain.attribution import Sender
from tasks.domain.notifications import tell
from tasks.hub import Hub

_log = structlog.get_logger(__name__)


def change_status(
    hub: Hub,
    model: FederatedModel,
    to: ModelStatus,
    *,
    run_id: UUID | None = None,
    user_id: str | None = None,
    event_id: UUID | None = None,
    details: Mapping[str, Any] | None = None,
    sender: Sender | None = None,
    global_round: int | None = None,
) -> StatusChange:
    """What became of the status: changed, or standing with the reason. To be called in a transaction.

    `sender`: whom it is about; None: the model as a whole.

    A late, backward, repeated or stale one changes nothing and is logged (`status.ignored`), never raised: FL servers
    send such in the ordinary course of things.
    """
    before = hub.metadata.lock_model(model)
    sender = sender or Sender()
    change = hub.metadata.update_model_status(
        before,
        to,
        run_id=run_id,
        user_id=user_id,
        event_id=event_id,
        details=details,
        trust_id=sender.trust,
        fl_client_name=sender.fl_client_name,
        global_round=global_round,
    )
    if change.changed:
        _tell_change(hub, before, change.model, user_id)
    else:
        _log.info(
            "status.ignored",
            model_id=str(before.uuid),
            status=str(to),
            stands=str(change.model.status),
            run_id=None if run_id is None else str(run_id),
            reason=str(change.reason),
        )
    return change


def advance(hub: Hub, model: FederatedModel, to: ModelStatus, user_id: str | None = None) -> FederatedModel:
    """The model with status `to` if it may become so, else as it stands. `model` must be locked."""
    if not may_become(model.status, to):
        return model  # every claim of a RUNNING model comes by here: no news, and nothing to log
    return change_status(hub, model, to, user_id=user_id).model


def _tell_change(hub: Hub, before: FederatedModel, model: FederatedModel, user_id: str | None) -> None:
    run = name_of(model.run_id)
    details = {
        "status": str(model.status),
        "previous_status": str(before.status),
        "run_id": None if model.run_id is None else str(model.run_id),
        "user_id": user_id,
    }
    tell(hub, model, "model.status_changed", f"model.status_changed:{model.uuid}:{run}:{model.status}", details)
    if model.status in FINAL:
        # A run reaches one final status and leaves it never: one key a run.
        tell(hub, model, "model.finished", f"model.finished:{model.uuid}:{run}", details)
