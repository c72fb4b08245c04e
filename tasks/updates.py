"""Tasks about updates."""

from __future__ import annotations

from connectors.records import UpdateStatus
from fedqueue.messages import SubmitModelUpdate, UpdateView, names
from tasks.base import hub_task
from tasks.domain.notifications import send_waiting
from tasks.domain.submission import submit_update
from tasks.domain.views import view_update
from tasks.hub import Hub


@hub_task(names.UPDATES_SUBMIT, SubmitModelUpdate)
def submit(hub: Hub, message: SubmitModelUpdate) -> UpdateView:
    """The update, written down as PENDING or INVALID; its model's round is looked at next."""
    submission = submit_update(hub, message)
    if submission.update.status in (UpdateStatus.PENDING, UpdateStatus.FAILED):
        hub.send(names.ROUNDS_AGGREGATE, {"model_id": submission.update.model_id}, None)
    else:
        send_waiting(hub)
    return view_update(submission)
