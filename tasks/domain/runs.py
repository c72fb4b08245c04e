"""What users and FL servers ask of a model's run: move it on, stop it, begin a new one, or only say where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.records import FederatedModel, StatusChange
from connectors.run_states import Ignored, as_status
from fedqueue.messages import names
from fedqueue.messages.events import EventRefusal
from fedqueue.messages.feed import UpdateStatus, UpdateStatuses
from tasks.domain.attribution import Sender, Senders
from tasks.domain.errors import AttributionFailed, EventReused, InvalidStatus, Refused
from tasks.domain.judging import Batch, Place, keep_refused, places
from tasks.domain.lifecycle import change_status
from tasks.domain.models import find_model, lock_model
from tasks.hub import Hub


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """What became of a list of statuses."""

    changes: list[StatusChange | None]  # one a status, in their order; None: refused
    refused: list[EventRefusal]
    awaits: UpdateStatus | None = None  # the first whose run has not begun


def is_of_a_run_to_come(hub: Hub, message: UpdateStatus, change: StatusChange) -> bool:
    """Whether the status changed nothing because its run has not begun, rather than because it is over.

    Two messages that were sent in order may be carried out out of order: a run's beginning may be on its way.
    """
    if message.run_id is None or change.reason != Ignored.STALE_RUN:
        return False
    return message.run_id not in {run.run_id for run in hub.metadata.pull_model_runs(change.model)}


def update_status(hub: Hub, message: UpdateStatus) -> StatusChange:
    """The status that stands, and whether this message changed it; without a status only the answer.

    `user_id` makes it a user's doing: its INITIATED begins a new run of a model whose last one is over.
    Raises: UnknownModel, InvalidStatus, EventReused.
    """
    if message.status is None:
        return _carry_out(hub, message)
    return hub.metadata.transact(lambda _: _carry_out(hub, message))


def update_statuses(hub: Hub, message: UpdateStatuses, *, may_wait: bool) -> CarriedOut:
    """Each status carried out in its turn, all in one transaction; one that is refused is kept and spoils no other.

    `may_wait`: the message will be carried out again if it awaits a run. What has been done by then is met as repeated;
    dead letters are kept the last time alone.
    """
    batch = Batch(UpdateStatus, places(0, "statuses", message.statuses))

    def carry_out(_: object) -> CarriedOut:
        standing = batch.copy()
        models = standing.find_models(hub)
        # By ascending id, as everybody locks several: no two wait in a ring.
        asked = {entry.message.model_id for entry in standing}
        for model in sorted((models[uuid] for uuid in asked), key=lambda model: model.id):
            hub.metadata.lock_model(model)
        changes: dict[Place, StatusChange] = {}
        awaits: UpdateStatus | None = None
        for entry in standing:
            try:
                change = changes[entry.place] = _carry_out(hub, entry.message)
            except Refused as refused:
                standing.refuse(entry, refused)
                continue
            if may_wait and awaits is None and is_of_a_run_to_come(hub, entry.message, change):
                awaits = entry.message
        if awaits is None:
            keep_refused(hub, names.MODELS_UPDATE_STATUSES, standing.refused)
        by_index = {place.index: change for place, change in changes.items()}
        return CarriedOut(
            [by_index.get(index) for index in range(len(message.statuses))], standing.refusals(1)[0], awaits
        )

    return hub.metadata.transact(carry_out)


def _carry_out(hub: Hub, message: UpdateStatus) -> StatusChange:
    """As `update_status`, in a transaction of the caller's unless it only asks."""
    if message.status is None:
        return StatusChange(find_model(hub, message.model_id), changed=False)
    try:
        status = as_status(message.status)
    except ValueError as error:
        raise InvalidStatus(str(error)) from error
    model = lock_model(hub, message.model_id)
    changed = change_status(
        hub,
        model,
        status,
        run_id=message.run_id,
        user_id=message.user_id,
        event_id=message.event_id,
        details=message.details,
        sender=_sender_of(hub, model, message),
        global_round=message.global_round,
    )
    if changed.reason == Ignored.REUSED and message.event_id is not None:
        raise EventReused(message.event_id)
    return changed


def _sender_of(hub: Hub, model: FederatedModel, message: UpdateStatus) -> Sender:
    """Whom the status is about: it is worth more than its form, so a name that is nobody's is kept as it is."""
    if message.fl_client_name is None and message.trust_id is None:
        return Sender()
    try:
        return Senders(hub, {model.uuid: model}, [message]).find(message)
    except AttributionFailed:
        return Sender(fl_client_name=message.fl_client_name)
