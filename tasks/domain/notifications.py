"""Telling other services: written down with the cause, in its transaction, and sent until the broker has it."""

from __future__ import annotations

from typing import Any

from connectors.records import FederatedModel, ModelUpdate, OutboxMessage, ReasonCode
from fedqueue.messages.notifications import Notification
from tasks.hub import Hub


def tell(hub: Hub, model: FederatedModel, event: str, key: str, details: dict[str, Any]) -> None:
    """Note that others are to be told `event` of the model, which must be locked; nothing if nobody is to be told.

    `key` is the same for every telling of one fact: the receiver may get it more than once, never twice different.
    """
    if hub.settings.notify_task is None:
        return
    notification = Notification(event=event, key=key, model_id=model.uuid, details=details)
    payload = notification.model_dump(mode="json", exclude={"sequence"})
    hub.metadata.add_outbox_message(
        key, hub.settings.notify_task, payload, queue=hub.settings.notify_queue, model=model
    )


def tell_quarantined(
    hub: Hub, model: FederatedModel, update: ModelUpdate, reason_code: ReasonCode, reason: str
) -> None:
    """Note that others are to be told that the update was set aside."""
    details = {"update_id": update.id, "reason_code": str(reason_code), "reason": reason}
    # With the fence: an operator may put it back, and a later round may set it aside again.
    tell(hub, model, "update.quarantined", f"update.quarantined:{update.submission_id}:{model.fence}", details)


def send_waiting(hub: Hub, limit: int = 100) -> int:
    """Send what waits in the outbox, oldest first, and note what the broker has accepted; how many.

    Two at once may both send the same message: at least once, with a key, is the promise. A model's messages reach the
    broker in their order all the same, each for the first time after the ones before it: they are committed in that
    order (under the model's lock), every sender goes through them in that order, and stops at the first that fails.
    """
    if hub.settings.notify_task is None:
        return 0
    waiting = hub.metadata.pull_outbox_messages(limit)
    sent: list[OutboxMessage] = []
    try:
        for message in waiting:
            # The row's id: a receiver that keeps the highest one it has seen of a model knows a late repeat by it.
            hub.send(message.task, {**message.payload, "sequence": message.id}, message.queue)
            sent.append(message)
    finally:
        if sent:
            hub.metadata.transact(lambda _: hub.metadata.register_outbox_messages_sent(sent))
    return len(sent)
