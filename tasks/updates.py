"""Tasks about updates."""

from __future__ import annotations

from connectors.records import UpdateStatus
from fedqueue.messages import SubmitModelUpdate, UpdateView, names
from tasks.base import hint, hub_task, tell_others
from tasks.domain.submission import submit_update
from tasks.domain.views import view_update
from tasks.hub import Hub


@hub_task(names.UPDATES_SUBMIT, SubmitModelUpdate)
def submit(hub: Hub, message: SubmitModelUpdate) -> UpdateView:
    """The update, written down as PENDING or INVALID; its model's round is looked at next, if it may be due."""
    submission = submit_update(hub, message)
    if submission.update.status in (UpdateStatus.PENDING, UpdateStatus.FAILED):
        if submission.may_be_due:
            hint(hub, names.ROUNDS_AGGREGATE, {"model_id": submission.update.model_id})
    else:
        tell_others(hub)
    return view_update(submission)
