"""What users and FL servers ask of a model's run: move it on, stop it, begin a new one, or only say where it stands."""

from __future__ import annotations

from connectors.records import StatusChange
from connectors.run_states import Ignored, as_status
from fedqueue.messages.feed import UpdateStatus
from tasks.domain.errors import EventReused, InvalidStatus
from tasks.domain.lifecycle import change_status
from tasks.domain.models import find_model, lock_model
from tasks.hub import Hub


def is_of_a_run_to_come(hub: Hub, message: UpdateStatus, change: StatusChange) -> bool:
    """Whether the status changed nothing because its run has not begun, rather than because it is over.

    Two messages that were sent in order may be carried out out of order: a run's beginning may be on its way.
    """
    if change.reason != Ignored.STALE_RUN:
        return False
    return message.run_id not in {run.run_id for run in hub.metadata.pull_model_runs(change.model)}


def update_status(hub: Hub, message: UpdateStatus) -> StatusChange:
    """The status that stands, and whether this message changed it; without a status only the answer.

    `user_id` makes it a user's doing: its INITIATED begins a new run of a model whose last one is over.
    Raises: UnknownModel, InvalidStatus, EventReused.
    """
    if message.status is None:
        return StatusChange(find_model(hub, message.model_id), changed=False)
    try:
        status = as_status(message.status)
    except ValueError as error:
        raise InvalidStatus(str(error)) from error

    def change(_: object) -> StatusChange:
        model = lock_model(hub, message.model_id)
        changed = change_status(
            hub,
            model,
            status,
            run_id=message.run_id,
            user_id=message.user_id,
            event_id=message.event_id,
            details=message.details,
        )
        if changed.reason == Ignored.REUSED and message.event_id is not None:
            raise EventReused(message.event_id)
        return changed

    return hub.metadata.transact(change)
