"""What goes into a connector comes out of it: models, clients, updates, artifacts, scores, feed, deliveries."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from connectors.errors import AlreadyExists, TransitionRefused
from connectors.metadata import BaseMetadataConnector
from connectors.records import (
    AuditAction,
    DataFormat,
    FederatedModel,
    ModelArtifact,
    ModelStatus,
    ReasonCode,
    UpdateStatus,
)


def test_a_model_comes_back_as_it_was_given(connector: BaseMetadataConnector, world: Any) -> None:
    given = FederatedModel(
        id=0,
        uuid=uuid4(),
        name="Zürich ✓",
        description="two\nlines",
        user_id="u1",
        project_id="p1",
        aggregator="fedavg",
        aggregator_params={"weighting": "uniform"},
        requirement="require_x_clients",
        requirement_args={"x": 3},
        furthest_base_agg=2,
        allow_repeats=True,
        max_rounds=20,
        data_format=DataFormat.JSON,
        update_schema={"type": "array"},
        client_agg_results_schema={"type": "object"},
        max_norm=12.5,
        score_metric="accuracy",
        score_mode="min",
        patience=4,
        silence_timeout=90.5,
        tensors=(("w", (3, 2), "F32"), ("b", (), "BF16")),
        status=ModelStatus.RUNNING,
        run_id=uuid4(),
    )
    with connector.transaction():
        made = connector.add_federated_model(given)
    found = world.now(made)
    kept = {"id", "created_at", "updated_at"}
    for name in {f.name for f in dataclasses.fields(FederatedModel)} - kept:
        assert getattr(found, name) == getattr(given, name), name
    assert found.created_at is not None
    assert abs((datetime.now(UTC) - found.created_at).total_seconds()) < 60


def test_a_models_uuid_is_taken_once_and_the_transaction_goes_on(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        with pytest.raises(AlreadyExists):
            connector.add_federated_model(FederatedModel(id=0, uuid=model.uuid))
        connector.add_audit(model, AuditAction.EDIT, "u1")
    assert connector.pull_audit(model) == [(AuditAction.EDIT, "u1")]


def test_a_change_sets_what_it_names_and_nothing_else(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model(name="before", aggregator="fedavg")
    with connector.transaction():
        changed = connector.change_federated_model(model, {"name": "after", "tensors": (("w", (2,), "F32"),)})
    assert (changed.name, changed.aggregator, changed.tensors) == ("after", "fedavg", (("w", (2,), "F32"),))
    assert world.now(model) == changed


@pytest.mark.parametrize(
    "name", ["fence", "head", "lease_until", "id", "uuid", "status", "run_id", "deleted", "nonsense"]
)
def test_a_change_can_not_touch_what_has_a_verb_of_its_own(
    connector: BaseMetadataConnector, world: Any, name: str
) -> None:
    model = world.model()
    with pytest.raises(ValueError, match=name), connector.transaction():
        connector.change_federated_model(model, {name: 5})


def test_deleted_models_are_listed_only_when_asked_for(connector: BaseMetadataConnector, world: Any) -> None:
    kept, deleted = world.model(), world.model(deleted=True)
    assert [m.id for m in connector.pull_federated_models()] == [kept.id]
    assert [m.id for m in connector.pull_federated_models(deleted=True)] == [kept.id, deleted.id]
    assert [m.id for m in connector.pull_federated_models(deleted=True, after_id=kept.id)] == [deleted.id]
    assert [m.id for m in connector.pull_federated_models(deleted=True, limit=1)] == [kept.id]


def test_a_client_is_registered_with_a_model_once(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(clients=0), world.model(clients=0)
    uuid = uuid4()
    with connector.transaction():
        first, was_new = connector.register_client(model, uuid, "Ward 3")
        again, is_new = connector.register_client(model, uuid, "Ward 3")
        elsewhere, new_there = connector.register_client(other, uuid)
    assert (was_new, is_new, new_there) == (True, False, True)
    assert first.id == again.id == elsewhere.id
    assert connector.pull_model_clients(model) == [first]
    assert connector.pull_client(uuid, model) == first
    assert connector.pull_client(uuid, world.model()) is None
    assert connector.pull_client(uuid4()) is None


def test_a_submission_id_is_taken_once(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model, metrics={"loss": 0.5}, num_steps=12, loss=2.5)
    with pytest.raises(AlreadyExists):
        world.update(model, submission_id=update.submission_id)
    found = connector.pull_model_update_w_submission_id(update.submission_id)
    assert found is not None
    assert found == update
    assert (found.metrics, found.num_steps, found.loss) == ({"loss": 0.5}, 12, 2.5)
    assert connector.pull_model_update_w_submission_id(uuid4()) is None


def test_an_update_is_ready_from_when_it_was_added(connector: BaseMetadataConnector, world: Any) -> None:
    """By the database's clock, in milliseconds: a deadline is counted from here."""
    update = world.update(world.model())
    assert update.not_before == pytest.approx(time.time() * 1000, abs=5_000)


def test_an_invalid_update_may_lack_client_and_data(connector: BaseMetadataConnector, world: Any) -> None:
    """A refusal is kept too: somebody will ask why."""
    model = world.model()
    update = world.update(
        model,
        client_id=None,
        data=None,
        num_examples=-1.0,
        status=UpdateStatus.INVALID,
        reason_code=ReasonCode.UNREGISTERED_CLIENT,
        reason="no such client",
    )
    (found,) = connector.pull_model_updates(model, statuses=[UpdateStatus.INVALID])
    assert found == update
    assert (found.reason_code, found.reason, found.data) == (ReasonCode.UNREGISTERED_CLIENT, "no such client", None)


def test_updates_are_counted_by_status(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    world.update(model)
    world.post(model)
    world.update(model)
    world.update(model)
    counts = connector.count_model_updates(model)
    assert counts == {
        UpdateStatus.PENDING: 2,
        UpdateStatus.RUNNING: 0,
        UpdateStatus.COMPLETE: 1,
        UpdateStatus.FAILED: 0,
        UpdateStatus.INVALID: 0,
    }


def test_updates_are_paged_by_id(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    ids = [world.update(model).id for _ in range(3)]
    first = connector.pull_model_updates(model, limit=2)
    assert [u.id for u in first] == ids[:2]
    assert [u.id for u in connector.pull_model_updates(model, after_id=ids[1])] == ids[2:]


def test_aggregates_are_paged_by_number(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    for _ in range(3):
        world.update(model)
        world.post(model)
    assert [a.number for a in connector.pull_model_aggregates(model, after_number=1, limit=1)] == [2]
    second = connector.pull_model_aggregates(model)[1]
    assert connector.pull_model_aggregate(second.id) == second
    assert connector.pull_model_aggregate(4711) is None


def test_a_version_is_unique_in_its_model(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(), world.model()
    with connector.transaction():
        made = connector.add_model_artifact(ModelArtifact(0, model.id, "1.0", world.blob()))
        connector.add_model_artifact(ModelArtifact(0, other.id, "1.0", world.blob()))
        newest = connector.add_model_artifact(ModelArtifact(0, model.id, "1.1", world.blob()))
        with pytest.raises(AlreadyExists):
            connector.add_model_artifact(ModelArtifact(0, model.id, "1.0", world.blob()))
    assert connector.pull_model_artifact(model, "1.0") == made
    assert connector.pull_model_artifact(model) == newest
    assert connector.pull_model_artifacts(model) == [made, newest]
    assert connector.pull_model_artifact(model, "2.0") is None


def test_a_clients_newer_score_replaces_its_older(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model(clients=2)
    world.update(model)
    aggregate = world.post(model)
    one, two = connector.pull_model_clients(model)
    with connector.transaction():
        connector.post_client_aggregate_score(aggregate, one, {"accuracy": 0.5})
        connector.post_client_aggregate_score(aggregate, two, {"accuracy": 0.7})
        connector.post_client_aggregate_score(aggregate, one, {"accuracy": 0.9}, num_examples=30)
        connector.register_validation_score(aggregate, 0.85)
    scores = connector.pull_client_aggregate_scores(aggregate)
    assert [(s.client_id, s.validation_results, s.num_examples) for s in scores] == [
        (one.id, {"accuracy": 0.9}, 30),
        (two.id, {"accuracy": 0.7}, 1),
    ]
    scored = connector.pull_model_aggregate(aggregate.id)
    assert scored is not None
    assert scored.validation_score == 0.85


def test_one_event_is_one_entry_of_the_feed(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    event_id = uuid4()
    with connector.transaction():
        for _ in range(2):
            connector.add_log(model, "AGGREGATE_POSTED", event_id=event_id, global_round=1, details={"updates": 2})
        connector.add_log(model, "ROUND_FAILED", event_id=uuid4(), success=False)
    posted, failed = connector.pull_logs(model)
    assert (posted.event_type, posted.global_round, posted.details) == ("AGGREGATE_POSTED", 1, {"updates": 2})
    assert (failed.event_type, failed.success) == ("ROUND_FAILED", False)
    assert connector.pull_logs(model, after_id=posted.id) == [failed]


def test_a_follow_up_stays_until_it_was_sent(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        connector.add_outbox_message("k1", "their.task", {"a": 1}, queue="theirs", model=model)
        connector.add_outbox_message("k1", "their.task", {"a": 2})
        connector.add_outbox_message("k2", "their.task", {"a": 3})
    first, second = connector.pull_outbox_messages()
    assert (first.key, first.payload, first.queue, first.model_id) == ("k1", {"a": 1}, "theirs", model.id)
    with connector.transaction():
        connector.register_outbox_messages_sent([first])
    assert connector.pull_outbox_messages() == [second]


def test_a_refused_message_is_kept_whole(connector: BaseMetadataConnector) -> None:
    with connector.transaction():
        connector.add_dead_letter("t", [{"x": None}], kind="InvalidMessage", field="x", reason="is required")
    (letter,) = connector.pull_dead_letters()
    assert (letter.task, letter.payload, letter.kind) == ("t", [{"x": None}], "InvalidMessage")
    assert (letter.field, letter.reason) == ("x", "is required")
    assert connector.pull_dead_letters(after_id=letter.id) == []


def test_garbage_collection_is_told_which_blobs_have_names(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    aggregate = world.post(model)
    artifact_blob, state_blob, loose = world.blob(), world.blob(), world.blob()
    with connector.transaction():
        connector.add_model_artifact(ModelArtifact(0, model.id, "1", artifact_blob))
        result = dataclasses.replace(world.result(), state=state_blob)
        with_state = connector.post_new_model_aggregate(model, aggregate, result)
    assert with_state.state == state_blob
    assert connector.pull_latest_model_aggregate(model) == with_state
    named = {update.data.digest, aggregate.data.digest, with_state.data.digest, artifact_blob.digest, state_blob.digest}
    assert connector.pull_named_digests([*named, loose.digest]) == named
    with connector.transaction():
        connector.register_model_updates_data_dropped([update])
    assert connector.pull_named_digests([*named, loose.digest]) == named - {update.data.digest}


def test_the_newest_blobs_tell_whether_a_store_is_the_hubs(connector: BaseMetadataConnector, world: Any) -> None:
    assert connector.pull_newest_digests() == [], "a hub that has stored nothing"
    model = world.model()
    updates = [world.update(model) for _ in range(3)]
    aggregate = world.post(model)
    published = world.blob()
    with connector.transaction():
        connector.add_model_artifact(ModelArtifact(0, model.id, "1", published))
    rest = [aggregate.data.digest, published.digest]
    assert connector.pull_newest_digests(2) == [updates[2].data.digest, updates[1].data.digest, *rest]
    with connector.transaction():
        connector.register_model_updates_data_dropped([updates[2]])
    assert connector.pull_newest_digests(1) == [updates[1].data.digest, *rest], "what retention let go is not there"


def test_inputs_of_old_aggregates_are_found_until_they_are_let_go(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    used = []
    for _ in range(3):
        used.append(world.update(model).id)
        world.post(model)
    old = connector.pull_model_updates_used_up_to(model, 2)
    assert [update.id for update in old] == used[:2]
    with connector.transaction():
        connector.register_model_updates_data_dropped(old[:1])
    assert [update.id for update in connector.pull_model_updates_used_up_to(model, 2)] == used[1:2]
    assert connector.pull_model_updates_used_up_to(world.model(), 2) == []


def test_data_that_may_still_be_needed_is_not_dropped(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    waiting = world.update(model)
    with pytest.raises(TransitionRefused), connector.transaction():
        connector.register_model_updates_data_dropped([waiting])


def test_an_operator_may_requeue_what_was_set_aside(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    aside = world.update(model, status=UpdateStatus.INVALID, reason_code=ReasonCode.NORM, reason="too long")
    with connector.transaction():
        connector.requeue_model_updates([aside])
    (found,) = connector.pull_model_updates_ready_for_aggregation(model, None)
    assert (found.id, found.status, found.reason_code, found.reason) == (aside.id, UpdateStatus.PENDING, None, None)


def test_what_can_never_count_is_not_requeued(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    invalid = {"status": UpdateStatus.INVALID, "reason_code": ReasonCode.CORRUPT, "reason": "no"}
    without_data = world.update(model, data=None, **invalid)
    without_weight = world.update(model, num_examples=0.0, **invalid)
    pending = world.update(model)
    good = world.update(model, **invalid)
    for impossible in (without_data, without_weight, pending):
        with pytest.raises(TransitionRefused), connector.transaction():
            connector.requeue_model_updates([good, impossible])
    assert connector.count_model_updates(model)[UpdateStatus.INVALID] == 3


def test_a_migrated_database_is_ready(connector: BaseMetadataConnector) -> None:
    connector.update_database()  # a second time changes nothing
    connector.check()
