"""Tasks that keep the house: follow-ups that wait, blobs that nobody names."""

from __future__ import annotations

from fedqueue.messages import PollRounds, RoundView, names
from tasks.base import hub_task
from tasks.domain.notifications import send_waiting
from tasks.domain.retention import let_old_inputs_go, let_old_records_go
from tasks.hub import Hub


@hub_task(names.MAINTENANCE_OUTBOX, PollRounds)
def outbox(hub: Hub, message: PollRounds) -> RoundView:  # noqa: ARG001  # it carries nothing
    """Follow-ups that a worker wrote down and did not live to send."""
    return RoundView(outcome="sent", reason=f"{send_waiting(hub)} messages")


@hub_task(names.MAINTENANCE_GARBAGE, PollRounds)
def garbage(hub: Hub, message: PollRounds) -> RoundView:  # noqa: ARG001  # it carries nothing
    """What the settings keep no longer is let go, and blobs that no row names and nobody can be about to."""
    let_old_inputs_go(hub)
    records = let_old_records_go(hub)
    age = hub.settings.garbage_after_seconds
    collected = hub.model_data.collect_garbage(age, hub.metadata.pull_named_digests)
    return RoundView(outcome="collected", reason=f"{collected} blobs, {records} old records")
