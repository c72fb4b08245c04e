"""The client's calls about a model's run: where it stands, stopping it, a new one; and the end of models."""

from __future__ import annotations

import uuid
from typing import Any

from fedqueue.arguments import Id, as_message, as_uuid
from fedqueue.calls import Calls
from fedqueue.messages import ModelRef
from fedqueue.messages import names as wire
from fedqueue.messages.feed import DeletedView, DeleteProject, StatusView, UpdateStatus


class RunCalls(Calls):
    """Status and deletion."""

    def update_status(
        self,
        model_id: Id,
        status: str | None,
        *,
        run_id: Id | None = None,
        user_id: str | None = None,
        event_id: Id | None = None,
        timeout: float | None = None,
    ) -> StatusView:
        """The status that stands, and whether this call changed it; with `status=None` only a question.

        `run_id` is the training attempt it is about (None: the model's current one), `user_id` who asks for it (None:
        an FL server reports it). A late, repeated or backward status, and one of an earlier run, changes nothing:
        `changed` is False and `reason` says why.
        """
        return self._update_status(model_id, status, run_id, user_id, event_id, timeout)

    def stop_model(self, model_id: Id, *, user_id: str | None = None, timeout: float | None = None) -> StatusView:
        """The model as STOPPED, unless its run is over: it claims no rounds and takes no updates."""
        return self._update_status(model_id, "STOPPED", None, user_id, None, timeout)

    def start_run(
        self,
        model_id: Id,
        *,
        user_id: str,
        run_id: Id | None = None,
        event_id: Id | None = None,
        timeout: float | None = None,
    ) -> StatusView:
        """The model as INITIATED in a new run, if its run is over; while one goes on nothing changes.

        Aggregates and pending updates stay. A `run_id` that the model has not seen begins that run whatever stands. One
        call begins one run however often it is sent: its id is made here if none is given.
        """
        return self._update_status(model_id, "INITIATED", run_id, user_id, event_id or uuid.uuid4(), timeout)

    def delete_model(self, model_id: Id, *, user_id: str | None = None, timeout: float | None = None) -> DeletedView:
        """How many models were deleted: 1, or 0 if it had been before. It accepts nothing more; its rows stay."""
        model_id = as_uuid(model_id, "model_id")
        message = as_message(ModelRef, model_id=model_id, user_id=user_id)
        return self._ask(wire.MODELS_DELETE, message, DeletedView, {"model_id": model_id}, timeout)

    def delete_project(
        self, project_id: str, *, user_id: str | None = None, timeout: float | None = None
    ) -> DeletedView:
        """How many of the project's models were deleted: all that had not been before, or none if it fails."""
        message = as_message(DeleteProject, project_id=project_id, user_id=user_id)
        return self._ask(wire.MODELS_DELETE_FOR_PROJECT, message, DeletedView, {}, timeout)

    def _update_status(
        self,
        model_id: Id,
        status: str | None,
        run_id: Id | None,
        user_id: str | None,
        event_id: Id | None,
        timeout: float | None,
    ) -> StatusView:
        fields: dict[str, Any] = {"model_id": as_uuid(model_id, "model_id"), "status": status, "user_id": user_id}
        repeat_with = {"model_id": fields["model_id"]}
        if run_id is not None:
            fields["run_id"] = as_uuid(run_id, "run_id")
        if event_id is not None:
            fields["event_id"] = repeat_with["event_id"] = as_uuid(event_id, "event_id")
        return self._ask(
            wire.MODELS_UPDATE_STATUS, as_message(UpdateStatus, **fields), StatusView, repeat_with, timeout
        )
