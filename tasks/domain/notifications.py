"""Telling other services: written down with the cause, in its transaction, and sent until the broker has it."""

from __future__ import annotations

from typing import Any

from connectors.records import FederatedModel, ModelUpdate, OutboxMessage
from tasks.hub import Hub


def tell(hub: Hub, model: FederatedModel, event: str, key: str, details: dict[str, Any]) -> None:
    """Note that others are to be told `event` of the model; nothing if nobody is configured to be told.

    `key` is the same for every telling of one fact: the receiver may get it more than once, never twice different.
    """
    if hub.settings.notify_task is None:
        return
    payload = {"v": 1, "event": event, "key": key, "model_id": str(model.uuid), "details": details}
    hub.metadata.add_outbox_message(
        key, hub.settings.notify_task, payload, queue=hub.settings.notify_queue, model=model
    )


def tell_quarantined(hub: Hub, model: FederatedModel, update: ModelUpdate) -> None:
    """Note that others are to be told that the update was set aside."""
    details = {"update_id": update.id, "reason_code": update.reason_code, "reason": update.reason}
    tell(hub, model, "update.quarantined", f"update.quarantined:{update.submission_id}", details)


def send_waiting(hub: Hub, limit: int = 100) -> int:
    """Send what waits in the outbox, oldest first, and note what the broker has accepted; how many.

    Two at once may both send the same message: at least once, with a key, is the promise.
    """
    if hub.settings.notify_task is None:
        return 0
    waiting = hub.metadata.pull_outbox_messages(limit)
    sent: list[OutboxMessage] = []
    try:
        for message in waiting:
            hub.send(message.task, message.payload, message.queue)
            sent.append(message)
    finally:
        if sent:
            hub.metadata.transact(lambda _: hub.metadata.register_outbox_messages_sent(sent))
    return len(sent)
