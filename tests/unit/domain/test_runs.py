"""What users and FL servers ask of a run, as messages; the table of statuses itself is held by the status machine."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from connectors.records import FederatedModel, ModelStatus, StatusChange, UpdateStatus
from fedqueue.messages import PublishModel
from fedqueue.messages import feed as wire
from tasks.domain.errors import EventReused, InvalidStatus, ModelIsOver, UnknownModel
from tasks.domain.models import publish_model
from tasks.domain.rounds import run_round
from tasks.domain.runs import update_status
from tests.unit.domain.conftest import Bench


def ask(bench: Bench, model: FederatedModel, status: str | None, **fields: Any) -> StatusChange:
    return update_status(bench.hub, wire.UpdateStatus(model_id=model.uuid, status=status, **fields))


def test_a_question_changes_nothing(bench: Bench) -> None:
    model, _ = bench.model()
    answer = ask(bench, model, None)
    assert (answer.model.status, answer.changed, answer.reason) == (ModelStatus.INITIATED, False, "")


def test_training_started_is_read_as_running(bench: Bench) -> None:
    model, _ = bench.model()
    assert ask(bench, model, "TRAINING_STARTED").model.status is ModelStatus.RUNNING


def test_a_status_that_there_is_not_is_refused_with_those_there_are(bench: Bench) -> None:
    model, _ = bench.model()
    with pytest.raises(InvalidStatus, match=r"'DONE': known are PENDING, INITIATED, .*TRAINING_STARTED") as refused:
        ask(bench, model, "DONE")
    assert refused.value.field == "status"


def test_an_event_id_that_was_given_to_something_else_is_refused(bench: Bench) -> None:
    model, _ = bench.model()
    event = uuid4()
    assert ask(bench, model, "PREPARED", event_id=event).changed
    assert ask(bench, model, "PREPARED", event_id=event).reason == "repeated"
    with pytest.raises(EventReused):
        ask(bench, model, "RUNNING", event_id=event)
    assert bench.now(model).status is ModelStatus.PREPARED


def test_an_unknown_model_has_no_status(bench: Bench) -> None:
    with pytest.raises(UnknownModel):
        update_status(bench.hub, wire.UpdateStatus(model_id=uuid4(), status="RUNNING"))


@pytest.mark.parametrize("status", ["STOPPED", "ERROR"])
def test_a_model_that_is_over_claims_no_rounds_until_a_user_s_new_run(status: str, bench: Bench) -> None:
    """Its aggregates and its pending updates stay; a late callback does not bring it back (DESIGN 11)."""
    model, (one, two) = bench.model()
    bench.submit(model, one, [1.0])
    bench.post(model)
    waiting = bench.submit(model, two, [3.0])
    ask(bench, model, status, user_id="ada")
    assert bench.metadata.pull_models_to_aggregate() == []
    assert run_round(bench.hub, model.id).outcome == "over"
    with pytest.raises(ModelIsOver):
        bench.submit(model, one, [5.0])
    assert ask(bench, model, "INITIATED").reason == "over", "an FL server's late INITIATED"
    begun = ask(bench, model, "INITIATED", user_id="ada")
    assert begun.changed
    assert begun.model.run_id is not None
    assert bench.metadata.pull_models_to_aggregate() == [model.id]
    assert bench.post(model).number == 2
    assert bench.update(waiting).status is UpdateStatus.COMPLETE
    assert bench.now(model).status is ModelStatus.RUNNING


def test_a_request_for_a_new_run_that_is_delivered_twice_begins_one(bench: Bench) -> None:
    """However much later it comes again: the run that it began may be over by then."""
    model, _ = bench.model()
    ask(bench, model, "STOPPED", user_id="ada")
    request: dict[str, Any] = {"user_id": "ada", "event_id": uuid4()}
    first = ask(bench, model, "INITIATED", **request)
    assert first.changed
    ask(bench, model, "STOPPED", user_id="ada")
    again = ask(bench, model, "INITIATED", **request)
    assert (again.changed, again.model.run_id, again.model.status) == (
        False,
        first.model.run_id,
        ModelStatus.STOPPED,
    )


def test_a_publication_as_final_ends_a_run_once(bench: Bench) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    bench.post(model)
    for version in ("1", "2"):
        publish_model(bench.hub, PublishModel(model_id=model.uuid, version=version, final=True, user_id="ada"))
    audit = bench.metadata.pull_audit(model)
    assert [user for action, user in audit if action == "RESULTS_UPLOADED"] == ["ada"]
    fed = [log.event_type for log in bench.metadata.pull_logs(model)]
    assert fed.count("RESULTS_UPLOADED") == 1


def test_the_hub_s_own_changes_are_audited_and_fed_like_anybody_s(bench: Bench) -> None:
    """One audit row and one entry a change (I9), in the order of the changes."""
    model, (one, _) = bench.model(max_rounds=1)
    bench.submit(model, one, [1.0])
    bench.post(model)
    walked = ["INITIATED", "RUNNING", "RESULTS_UPLOADED"]
    assert [(str(a), u) for a, u in bench.metadata.pull_audit(model) if a in walked] == [(s, None) for s in walked]
    fed = [log.event_type for log in bench.metadata.pull_logs(model)]
    assert [entry for entry in fed if entry in walked] == walked
