"""The states of a model's run (DESIGN 4.2): forward only, each change with its audit row, in one transaction."""

from __future__ import annotations

from connectors.metadata import BaseMetadataConnector
from connectors.records import AuditAction, FederatedModel, ModelStatus
from connectors.run_states import may_become


def advance(
    metadata: BaseMetadataConnector, model: FederatedModel, to: ModelStatus, user_id: str | None = None
) -> FederatedModel:
    """The model with status `to` if it may become so, else as it stands. `model` must be locked."""
    if not may_become(model.status, to):
        return model
    if to in AuditAction.__members__:
        metadata.add_audit(model, AuditAction[to], user_id)
    return metadata.change_federated_model(model, {"status": to})
