"""Whoever waits for a model's lock while it is deleted is refused, on databases whose locks are real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel
from connectors.sql.connector import SqlAlchemyMetadataConnector
from fedqueue.messages import (
    AddScore,
    CreateModel,
    EditModel,
    Policy,
    PublishModel,
    RegisterClient,
    SubmitModelUpdate,
)
from tasks.domain.errors import ModelReused, Refused, UnknownModel
from tasks.domain.models import create_model, edit_model, publish_model, register_client, set_paused
from tasks.domain.rounds import run_round
from tasks.domain.scores import add_score
from tasks.domain.submission import submit_update
from tasks.hub import Hub
from tests.chaos.domain_hub import domain_hub
from tests.contract.conftest import database_url

Ask = Callable[[Hub, UUID, UUID], Any]


def _submit(hub: Hub, model_id: UUID, client_id: UUID) -> Any:
    message = SubmitModelUpdate(submission_id=uuid4(), model_id=model_id, client_id=client_id, data=[[1.0]])
    return submit_update(hub, message)


ASKS: dict[str, Ask] = {
    "submit": _submit,
    "register": lambda hub, model_id, _: register_client(hub, RegisterClient(model_id=model_id)),
    "edit": lambda hub, model_id, _: edit_model(hub, EditModel(model_id=model_id, changes=Policy(name="new"))),
    "pause": lambda hub, model_id, _: set_paused(hub, model_id, True),
    "publish": lambda hub, model_id, _: publish_model(hub, PublishModel(model_id=model_id, version="1")),
    "score": lambda hub, model_id, client_id: add_score(
        hub, AddScore(model_id=model_id, aggregate_id=1, client_id=client_id, validation_results={})
    ),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseMetadataConnector]:
    made = SqlAlchemyMetadataConnector(database_url(request, tmp_path))
    made.update_database()
    yield made
    made.close()


@pytest.fixture
def hub(metadata: BaseMetadataConnector, tmp_path: Path) -> Hub:
    return domain_hub(metadata, tmp_path)


@pytest.fixture
def client_id() -> UUID:
    return uuid4()


@pytest.fixture
def model(hub: Hub, client_id: UUID) -> FederatedModel:
    """A JSON model with one client and one aggregate, so that nothing but its deletion can be refused."""
    message = CreateModel(model_id=uuid4(), data_format="json", requirement=None, clients=[client_id])
    model = create_model(hub, message)
    _submit(hub, model.uuid, client_id)
    assert run_round(hub, model.id).outcome == "posted"
    return model


@pytest.mark.parametrize("what", ASKS)
def test_what_waits_for_the_lock_of_a_model_that_is_being_deleted_is_refused(
    what: str, hub: Hub, model: FederatedModel, client_id: UUID
) -> None:
    """It found the model before, and must look again once it has the lock."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(ASKS[what](hub, model.uuid, client_id))
        except Refused as refused:
            answers.append(refused)

    asking = threading.Thread(target=ask)
    with hub.metadata.transaction():
        hub.metadata.lock_model(model)
        asking.start()
        time.sleep(0.3)
        assert asking.is_alive(), "it does not wait for the lock: this shows nothing"
        hub.metadata.change_federated_model(model, {"deleted": True})
    asking.join(30)
    assert [type(each) for each in answers] == [UnknownModel]


def test_a_deleted_model_s_id_makes_no_other_model(hub: Hub, model: FederatedModel) -> None:
    with hub.metadata.transaction():
        hub.metadata.change_federated_model(model, {"deleted": True})
    with pytest.raises(ModelReused, match=r"was deleted: choose a new model_id"):
        create_model(hub, CreateModel(model_id=model.uuid, data_format="json", requirement=None))
