"""A hub without Celery or processes: the real rules over a real connector and real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from safetensors.numpy import save

from config.settings import Settings
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, ModelUpdate
from connectors.storage import FileModelDataConnector
from fedqueue.messages import CreateModel, RegisterClient, SubmitModelUpdate
from tasks.domain.models import create_model, register_client
from tasks.domain.submission import submit_update
from tasks.hub import Hub

SHAPE = (2, 3)


def domain_hub(metadata: BaseMetadataConnector, folder: Path, **settings: Any) -> Hub:
    """A hub over that connector; the hints that it sends are dropped, as a broker may drop any."""
    return Hub(
        settings=Settings(home=folder, **settings),
        metadata=metadata,
        model_data=FileModelDataConnector(folder / "store"),
        send=lambda task, message, queue: None,
        worker="test",
    )


def add_model(hub: Hub, clients: int, **policy: Any) -> tuple[FederatedModel, list[UUID]]:
    """A model with that many registered clients."""
    model = create_model(hub, CreateModel(model_id=uuid4(), **policy))
    names = [uuid4() for _ in range(clients)]
    for name in names:
        register_client(hub, RegisterClient(model_id=model.uuid, client_id=name))
    return model, names


def submission(hub: Hub, model: FederatedModel, client: UUID, value: float, **fields: Any) -> SubmitModelUpdate:
    """A message with an update whose six numbers count up from `value`, in the store already."""
    array = np.arange(6, dtype=np.float32).reshape(fields.pop("shape", SHAPE)) + np.float32(value)
    blob = hub.model_data.push_model_data_to_storage(model, save({"w": array}))
    named = {"submission_id": uuid4(), "model_id": model.uuid, "client_id": client}
    return SubmitModelUpdate(**(named | {"data_uri": blob.uri, "digest": blob.digest} | fields))


def submit(hub: Hub, model: FederatedModel, client: UUID, value: float, **fields: Any) -> ModelUpdate:
    """What became of such an update."""
    return submit_update(hub, submission(hub, model, client, value, **fields)).update
