"""A hub without Celery: real rules, real files, metadata in memory; follow-ups are carried out by the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from safetensors.numpy import save

from config.settings import Settings
from connectors.memory import InMemoryMetadataConnector
from connectors.records import DataFormat, FederatedModel, ModelAggregate, ModelUpdate
from connectors.storage import FileModelDataConnector
from fedqueue.messages import CreateModel, RegisterClient, SubmitModelUpdate
from tasks.domain.models import create_model, register_client
from tasks.domain.rounds import run_round
from tasks.domain.submission import submit_update
from tasks.hub import Hub


class Bench:
    """A hub, a clock that a test may turn, and short ways to use them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.milliseconds = 1_000_000
        self.sent: list[tuple[str, Mapping[str, Any], str | None]] = []
        self.metadata = InMemoryMetadataConnector(clock=lambda: self.milliseconds)
        self.store = FileModelDataConnector(folder / "store")
        self.hub = Hub(
            settings=Settings(home=folder, **settings),
            metadata=self.metadata,
            model_data=self.store,
            send=lambda task, message, queue: self.sent.append((task, message, queue)),
            worker="bench",
        )

    def model(self, clients: int = 2, **policy: Any) -> tuple[FederatedModel, list[UUID]]:
        """A JSON model and its registered clients, unless the policy says otherwise."""
        fields = {"data_format": "json", "requirement": None} | policy
        model = create_model(self.hub, CreateModel(model_id=uuid4(), **fields))
        names = [uuid4() for _ in range(clients)]
        for position, name in enumerate(names):
            message = RegisterClient(model_id=model.uuid, client_id=name, name=f"client {position}")
            register_client(self.hub, message)
        return self.now(model), names

    def now(self, model: FederatedModel) -> FederatedModel:
        """The model as it stands."""
        found = self.metadata.pull_federated_model_w_id(model.id)
        assert found is not None
        return found

    def submit(self, model: FederatedModel, client: UUID, data: Any, **fields: Any) -> ModelUpdate:
        """What became of a submission of FMA's lists."""
        message = SubmitModelUpdate(
            **({"submission_id": uuid4(), "model_id": model.uuid, "client_id": client, "data": data} | fields)
        )
        return submit_update(self.hub, message).update

    def submit_arrays(
        self, model: FederatedModel, client: UUID, arrays: Mapping[str, Any], **fields: Any
    ) -> ModelUpdate:
        """What became of a submission of safetensors."""
        blob = self.store.push_model_data_to_storage(model, save({k: np.asarray(v) for k, v in arrays.items()}))
        return self.submit(model, client, None, data_uri=blob.uri, digest=blob.digest, **fields)

    def post(self, model: FederatedModel) -> ModelAggregate:
        """The aggregate of a round that must be due."""
        outcome = run_round(self.hub, model.id)
        assert outcome.outcome == "posted", outcome
        assert outcome.aggregate is not None
        return outcome.aggregate

    def update(self, update: ModelUpdate) -> ModelUpdate:
        """The update as it stands."""
        found = self.metadata.pull_model_update_w_submission_id(update.submission_id)
        assert found is not None
        return found

    def values(self, model: FederatedModel) -> dict[str, list[Any]]:
        """The newest aggregate's tensors, flattened."""
        aggregate = self.metadata.pull_latest_model_aggregate(model)
        assert aggregate is not None
        reader = self.store.open(aggregate.data, DataFormat(model.data_format))
        found = {name: reader.read(name, 0, int(np.prod(shape))).tolist() for name, shape, _ in reader.tensors}
        reader.close()
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A hub with the default settings."""
    return Bench(tmp_path)
