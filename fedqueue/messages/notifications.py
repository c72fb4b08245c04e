"""What the hub tells others by itself: one message for every event, to the task that `FEDQUEUE_NOTIFY_TASK` names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from fedqueue.messages.envelope import View


class Notification(View):
    """A fact about a model. It may come more than once, with the same key; docs/notifications.md lists the events."""

    v: int = 1
    event: str = Field(description="model.status_changed, model.finished, aggregate.posted, update.quarantined, …")
    key: str = Field(description="The same at every repeat of one fact, and of no other fact.")
    model_id: UUID
    sequence: int = Field(
        default=0, description="Grows from each fact of a model to the next; a repeat has the first one's."
    )
    details: dict[str, Any] = Field(default_factory=dict, description="What there is to say, by event.")
