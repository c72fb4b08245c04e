"""Whoever waits for a model's lock while it is deleted is refused, on databases whose locks are real."""

from __future__ import annotations

import threading
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
    ModelRef,
    Policy,
    PublishModel,
    RegisterClient,
    SubmitModelUpdate,
)
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.deletion import delete_model
from tasks.domain.errors import ModelReused, Refused, UnknownModel
from tasks.domain.models import create_model, edit_model, publish_model, register_client, set_paused
from tasks.domain.rounds import finish_round, run_round
from tasks.domain.scores import add_score
from tasks.domain.submission import submit_update
from tasks.hub import Hub
from tests.chaos.domain_hub import domain_hub
from tests.contract.conftest import migrated_url
from tests.waiting import run_until_it_waits

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


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseMetadataConnector]:
    made = SqlAlchemyMetadataConnector(migrated_url(request, tmp_path))
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
        run_until_it_waits(asking, hub.metadata)
        assert asking.is_alive(), "it does not wait for the lock: this shows nothing"
        hub.metadata.delete_federated_models([model])
    asking.join(30)
    assert [type(each) for each in answers] == [UnknownModel]


def test_a_deleted_model_s_id_makes_no_other_model(hub: Hub, model: FederatedModel) -> None:
    delete_model(hub, ModelRef(model_id=model.uuid))
    with pytest.raises(ModelReused, match=r"was deleted: choose a new model_id"):
        create_model(hub, CreateModel(model_id=model.uuid, data_format="json", requirement=None))


@pytest.mark.parametrize("first", ["deletion", "post", "neither"])
def test_a_round_and_the_deletion_of_its_model_come_one_after_the_other(
    first: str, hub: Hub, model: FederatedModel, client_id: UUID
) -> None:
    """Either its aggregate was there before, or nothing of the round is; no update is left on the way."""
    _submit(hub, model.uuid, client_id)
    begun = hub.metadata.transact(lambda transaction: begin_round(hub, model.id, transaction))
    assert isinstance(begun, Begun)

    def delete() -> None:
        assert delete_model(hub, ModelRef(model_id=model.uuid, user_id="ada")) == 1

    deleting = threading.Thread(target=delete)
    if first != "post":
        deleting.start()
    if first == "deletion":
        deleting.join(30)
    outcome = finish_round(hub, begun).outcome
    if first == "post":
        deleting.start()
    deleting.join(30)
    posted = [aggregate.number for aggregate in hub.metadata.pull_model_aggregates(model)]
    (newest,) = hub.metadata.pull_model_updates(model)[1:]
    if outcome == "posted":
        assert (posted, newest.status) == ([1, 2], "COMPLETE")
    else:
        assert (outcome, posted, newest.status, newest.attempts) == ("deleted", [1], "PENDING", 0)
    assert first == "neither" or (outcome == "posted") is (first == "post")
    assert [log.event_type for log in hub.metadata.pull_logs(model) if not log.success] == []
    assert hub.metadata.pull_models_to_aggregate() == []
