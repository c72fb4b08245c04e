"""Each transition of updates, rounds and aggregates names what it starts from: state, claim, model, head."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from connectors.errors import ClaimLost, TransitionRefused
from connectors.metadata import BaseMetadataConnector
from connectors.records import AuditAction, Claim, FederatedModel, RoundState, UpdateStatus
from tests.waiting import run_until_it_waits

LONG, OVER = 60_000, -1


def _claim(connector: BaseMetadataConnector, model: FederatedModel, lease_ms: int = LONG) -> Claim:
    with connector.transaction():
        claim = connector.claim_model(model, lease_ms)
    assert claim is not None
    return claim


def test_only_what_runs_is_completed(connector: BaseMetadataConnector, world: Any) -> None:
    """An update that was given back, and so waits for another round, is not taken along by this one."""
    model = world.model()
    update = world.update(model)
    claim = _claim(connector, model)
    with connector.transaction():
        (taken,) = connector.register_model_updates_for_aggregation([update], claim=claim)
        connector.return_model_updates([taken], status=UpdateStatus.PENDING)
        aggregate = connector.post_new_model_aggregate(model, None, world.result(), claim=claim)
        with pytest.raises(TransitionRefused):
            connector.register_model_update_used_in_aggregate([taken], aggregate)
    assert connector.pull_model_updates(model)[0].status is UpdateStatus.PENDING


def test_an_aggregate_takes_no_other_models_update(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(), world.model()
    foreign = world.update(other)
    with connector.transaction():
        (taken,) = connector.register_model_updates_for_aggregation([foreign])
        aggregate = connector.post_new_model_aggregate(model, None, world.result())
        with pytest.raises(TransitionRefused):
            connector.register_model_update_used_in_aggregate([taken], aggregate)
    assert connector.pull_model_updates(other)[0].status is UpdateStatus.RUNNING


def test_a_claim_registers_no_other_models_update(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(), world.model()
    own, foreign = world.update(model), world.update(other)
    claim = _claim(connector, model)
    with connector.transaction(), pytest.raises(TransitionRefused):
        connector.register_model_updates_for_aggregation([own, foreign], claim=claim)
    assert {u.status for each in (model, other) for u in connector.pull_model_updates(each)} == {UpdateStatus.PENDING}


def test_updates_taken_back_are_not_returned_by_their_old_claim(connector: BaseMetadataConnector, world: Any) -> None:
    """A worker that wakes up late gives back what a later claim has under way: the round would lose it."""
    model = world.model()
    update = world.update(model)
    dead = _claim(connector, model, OVER)
    with connector.transaction():
        (old,) = connector.register_model_updates_for_aggregation([update], claim=dead)
    later = _claim(connector, model)
    with connector.transaction():
        connector.return_model_updates([old], status=UpdateStatus.FAILED)
        connector.register_model_updates_for_aggregation([update], claim=later)
        with pytest.raises(TransitionRefused):
            connector.return_model_updates([old], status=UpdateStatus.FAILED)
    (found,) = connector.pull_model_updates(model)
    assert (found.status, found.claim) == (UpdateStatus.RUNNING, later.fence)


def test_a_claim_takes_back_nothing_of_its_own(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    claim = _claim(connector, model)
    with connector.transaction():
        connector.register_model_updates_for_aggregation([update], claim=claim)
    assert connector.pull_model_updates_of_dead_claims(claim) == []


def test_a_round_ends_once(connector: BaseMetadataConnector, world: Any) -> None:
    """What came of a round stays, whoever comes later with another ending."""
    model = world.model()
    claim = _claim(connector, model, OVER)
    with connector.transaction():
        connector.add_round(claim, 1, "worker@one")
        connector.close_round(claim, RoundState.RELEASED, reason="the store was away")
    later = _claim(connector, model)
    with connector.transaction():
        connector.close_round(claim, RoundState.RELEASED, reason="said too late")
        connector.close_dead_rounds(later)
    (found,) = connector.pull_rounds(model)
    assert (found.state, found.reason) == (RoundState.RELEASED, "the store was away")


def test_only_the_rounds_of_dead_claims_are_closed_as_rescued(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    dead = _claim(connector, model, OVER)
    with connector.transaction():
        connector.add_round(dead, 1, "worker@one")
    live = _claim(connector, model)
    with connector.transaction():
        connector.add_round(live, 1, "worker@two")
        connector.close_dead_rounds(live)
    assert [found.state for found in connector.pull_rounds(model)] == [RoundState.CLAIMED, RoundState.RESCUED]


def test_a_post_upon_an_older_parent_is_refused_by_the_models_row(connector: BaseMetadataConnector, world: Any) -> None:
    """By the row, which names the newest aggregate's number, before a constraint of the schema must step in."""
    model = world.model()
    with connector.transaction():
        connector.post_new_model_aggregate(model, None, world.result())
    with pytest.raises(ClaimLost) as refused, connector.transaction():
        connector.post_new_model_aggregate(model, None, world.result())
    assert "the chain has that link already" not in str(refused.value)


def test_who_deletes_what_another_is_deleting_waits_and_deletes_nothing(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """Both looked while it was there: the second looks again when it has the row."""
    model = world.model()
    counts: list[int] = []
    second = threading.Thread(target=lambda: counts.append(world.delete(model, user_id="second")))
    with connector.transaction():
        connector.delete_federated_models([model], "first")
        run_until_it_waits(second, connector)
        assert second.is_alive(), "it does not wait: this shows nothing"
    second.join(60)
    assert counts == [0]
    assert connector.pull_audit(model) == [(AuditAction.DELETE, "first")]
