"""Deletion: soft, audited, all or nothing, and for good: a deleted model answers as one that never was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.records import AuditAction, FederatedModel
from connectors.sql.connector import SqlAlchemyMetadataConnector
from fedqueue.messages import (
    AddScore,
    EditModel,
    LatestModel,
    ModelRef,
    Policy,
    PublishModel,
    RegisterClient,
    SubmitModelUpdate,
)
from fedqueue.messages.feed import DeleteProject, UpdateStatus
from fedqueue.messages.trusts import SetModelTrusts
from tasks.domain.deletion import delete_model, delete_project
from tasks.domain.errors import UnknownModel
from tasks.domain.models import edit_model, find_model, publish_model, register_client, set_paused
from tasks.domain.runs import update_status
from tasks.domain.scores import add_score
from tasks.domain.submission import submit_update
from tasks.domain.trusts import list_trusts, set_model_trusts
from tasks.domain.views import view_latest
from tasks.hub import Hub
from tests.chaos.domain_hub import add_model, domain_hub
from tests.unit.domain.conftest import Bench

ASKS: dict[str, Callable[[Hub, UUID, UUID], Any]] = {
    "submit": lambda hub, model, client: submit_update(
        hub, SubmitModelUpdate(submission_id=uuid4(), model_id=model, client_id=client, data=[1.0])
    ),
    "register": lambda hub, model, _: register_client(hub, RegisterClient(model_id=model)),
    "edit": lambda hub, model, _: edit_model(hub, EditModel(model_id=model, changes=Policy(name="new"))),
    "pause": lambda hub, model, _: set_paused(hub, model, True),
    "publish": lambda hub, model, _: publish_model(hub, PublishModel(model_id=model, version="1")),
    "score": lambda hub, model, client: add_score(
        hub, AddScore(model_id=model, aggregate_id=1, client_id=client, validation_results={})
    ),
    "get": lambda hub, model, _: find_model(hub, model),
    "latest": lambda hub, model, _: view_latest(hub, LatestModel(model_id=model)),
    "status": lambda hub, model, _: update_status(hub, UpdateStatus(model_id=model, status="STOPPED", user_id="ada")),
    "ask": lambda hub, model, _: update_status(hub, UpdateStatus(model_id=model)),
    "approve": lambda hub, model, _: set_model_trusts(hub, SetModelTrusts(model_id=model, trust_ids=[])),
    "approved": lambda hub, model, _: list_trusts(hub, model),
}


def delete(bench: Bench, model: FederatedModel) -> int:
    return delete_model(bench.hub, ModelRef(model_id=model.uuid, user_id="ada"))


@pytest.mark.parametrize("what", ASKS)
def test_a_deleted_model_answers_as_one_that_never_was(what: str, bench: Bench) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    bench.post(model)
    delete(bench, model)
    before = bench.metadata.pull_audit(model)
    with pytest.raises(UnknownModel):
        ASKS[what](bench.hub, model.uuid, one)
    assert bench.metadata.pull_audit(model) == before


def test_a_deletion_is_audited_and_a_repeat_deletes_nothing(bench: Bench) -> None:
    model, _ = bench.model()
    assert (delete(bench, model), delete(bench, model)) == (1, 0)
    deletions = [user for action, user in bench.metadata.pull_audit(model) if action is AuditAction.DELETE]
    assert deletions == ["ada"]
    assert bench.metadata.pull_federated_models() == []
    assert bench.metadata.pull_federated_models(deleted=True) == [bench.now(model)]


def test_what_never_was_can_t_be_deleted(bench: Bench) -> None:
    with pytest.raises(UnknownModel):
        delete_model(bench.hub, ModelRef(model_id=uuid4()))


def test_others_are_told_where_the_deleted_model_s_run_stood(tmp_path: Path) -> None:
    """Its run will never finish, and somebody may hold resources for it."""
    told = Bench(tmp_path, notify_task="theirs.fact", notify_queue="theirs")
    model, _ = told.model()
    delete(told, model)
    delete(told, model)
    (message,) = [m for m in told.metadata.pull_outbox_messages() if m.payload["event"] == "model.deleted"]
    assert message.payload["details"] == {"status": "INITIATED", "run_id": None, "user_id": "ada"}


# --- projects -------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub on a real file: what is undone must be undone by the database."""
    metadata = SqlAlchemyMetadataConnector(f"sqlite:///{tmp_path}/hub.db")
    metadata.update_database()
    yield domain_hub(metadata, tmp_path, notify_task="theirs.fact", notify_queue="theirs")
    metadata.close()


def test_a_project_s_models_are_deleted_and_no_others(hub: Hub) -> None:
    mine = [add_model(hub, 0, project_id="lungs")[0] for _ in range(3)]
    other, _ = add_model(hub, 0, project_id="hearts")
    delete_model(hub, ModelRef(model_id=mine[0].uuid))
    assert delete_project(hub, DeleteProject(project_id="lungs", user_id="ada")) == 2
    assert delete_project(hub, DeleteProject(project_id="lungs", user_id="ada")) == 0
    assert [model.id for model in hub.metadata.pull_federated_models()] == [other.id]
    audits = [hub.metadata.pull_audit(model) for model in mine]
    users = [[user for action, user in audit if action is AuditAction.DELETE] for audit in audits]
    assert users == [[None], ["ada"], ["ada"]]


def test_a_project_is_deleted_whole_or_not_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLIP committed status, audit and release one by one; here the last telling fails, and nothing has happened."""
    models = [add_model(hub, 0, project_id="lungs")[0] for _ in range(3)]
    add, told = hub.metadata.add_outbox_message, []

    def breaks_at_the_last(key: str, *arguments: Any, **options: Any) -> None:
        told.append(key)
        if len(told) == len(models):
            raise RuntimeError("the disk is full")
        add(key, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(hub.metadata, "add_outbox_message", breaks_at_the_last)
        with pytest.raises(RuntimeError):
            delete_project(hub, DeleteProject(project_id="lungs"))
    assert [model.id for model in hub.metadata.pull_federated_models()] == [model.id for model in models]
    assert all(AuditAction.DELETE not in dict(hub.metadata.pull_audit(model)) for model in models)
    assert hub.metadata.pull_outbox_messages() == []
    assert delete_project(hub, DeleteProject(project_id="lungs")) == 3
