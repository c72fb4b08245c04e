"""Deleting models: soft, so that lineage and audit stay, and for good: a deleted model accepts nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.records import FederatedModel
from fedqueue.messages import ModelRef
from fedqueue.messages.feed import DeleteProject
from tasks.domain.errors import UnknownModel
from tasks.domain.notifications import tell
from tasks.hub import Hub


def delete_model(hub: Hub, message: ModelRef) -> int:
    """1 if the model was deleted now, 0 if it had been before: a repeat is harmless. Raises: UnknownModel."""

    def delete(_: object) -> int:
        model = hub.metadata.pull_federated_model_w_id(message.model_id)
        if model is None:
            raise UnknownModel(message.model_id)
        return _delete(hub, [model], message.user_id)

    return hub.metadata.transact(delete)


def delete_project(hub: Hub, message: DeleteProject) -> int:
    """How many of the project's models were deleted now: all that had not been before, in one transaction."""
    return hub.metadata.transact(
        lambda _: _delete(hub, hub.metadata.pull_project_models(message.project_id), message.user_id)
    )


def _delete(hub: Hub, models: Sequence[FederatedModel], user_id: str | None) -> int:
    # By ascending id, as everybody who locks several does: the other order deadlocks.
    locked = [hub.metadata.lock_model(model) for model in sorted(models, key=lambda model: model.id)]
    there = [model for model in locked if not model.deleted]
    deleted = hub.metadata.delete_federated_models(there, user_id)
    for model in there:
        # A run that was under way will never be told to have finished: who holds resources for it must hear of this.
        run_id = None if model.run_id is None else str(model.run_id)
        details = {"status": str(model.status), "run_id": run_id, "user_id": user_id}
        tell(hub, model, "model.deleted", f"model.deleted:{model.uuid}", details)
    return deleted
