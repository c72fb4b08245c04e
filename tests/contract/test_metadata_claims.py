"""Claims (DESIGN 5): one live a model, fenced, rescued; on every connector."""

from __future__ import annotations

import time
from typing import Any

import pytest

from connectors.errors import ClaimLost, TransitionRefused
from connectors.metadata import BaseMetadataConnector
from connectors.records import Claim, FederatedModel, ModelStatus, ReasonCode, RoundState, UpdateStatus

LONG, OVER = 60_000, -1


def _claim(connector: BaseMetadataConnector, model: FederatedModel, lease_ms: int = LONG) -> Claim:
    with connector.transaction():
        claim = connector.claim_model(model, lease_ms)
    assert claim is not None
    return claim


def test_a_model_has_one_live_claim(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    _claim(connector, model)
    with connector.transaction():
        assert connector.claim_model(model, LONG) is None


def test_a_claim_whose_lease_is_over_may_be_overtaken(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    first = _claim(connector, model, OVER)
    second = _claim(connector, model)
    assert second.fence == first.fence + 1


def test_the_lease_runs_by_the_databases_clock(connector: BaseMetadataConnector, world: Any) -> None:
    """Milliseconds since 1970 on every database; a wrong unit would hold a model for years, or not at all."""
    model = world.model()
    before = time.time() * 1000
    claim = _claim(connector, model, 30_000)
    assert before - 1_000 <= claim.lease_until - 30_000 <= time.time() * 1000 + 1_000


def test_a_released_model_may_be_claimed_at_once(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    claim = _claim(connector, model)
    with connector.transaction():
        connector.release_claim(claim)
    _claim(connector, model)


def test_who_was_overtaken_can_neither_renew_nor_release_nor_register_nor_post(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """A zombie wakes up after its lease: the fence stops it whatever its clock says."""
    model = world.model()
    update = world.update(model)
    zombie = _claim(connector, model, OVER)
    _claim(connector, model)
    attempts = (
        lambda: connector.renew_claim(zombie, LONG),
        lambda: connector.release_claim(zombie),
        lambda: connector.register_model_updates_for_aggregation([update], claim=zombie),
        lambda: connector.post_new_model_aggregate(model, None, world.result(), claim=zombie),
    )
    for attempt in attempts:
        with pytest.raises(ClaimLost, match="overtaken"), connector.transaction():
            attempt()
    assert connector.pull_latest_model_aggregate(model) is None
    assert world.now(model).head == 0


def test_a_renewed_claim_lives_on_and_shows_its_progress(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    claim = _claim(connector, model, OVER)
    with connector.transaction():
        connector.add_round(claim, 3, "worker@one")
        renewed = connector.renew_claim(claim, LONG, updates_done=2, bytes_done=2_000)
    assert renewed.fence == claim.fence
    assert renewed.lease_until > claim.lease_until
    with connector.transaction():
        assert connector.claim_model(model, LONG) is None
    (found,) = connector.pull_rounds(model)
    assert (found.number, found.worker, found.num_updates) == (1, "worker@one", 3)
    assert (found.updates_done, found.bytes_done, found.state) == (2, 2_000, RoundState.CLAIMED)


def test_a_post_ends_the_lease(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    claim = _claim(connector, model)
    with connector.transaction():
        connector.post_new_model_aggregate(model, None, world.result(), claim=claim)
    assert world.now(model).lease_until is None


def test_a_later_claim_finds_what_a_dead_one_left_running(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    dead = _claim(connector, model, OVER)
    with connector.transaction():
        connector.add_round(dead, 1, "")
        connector.register_model_updates_for_aggregation([update], claim=dead)
    later = _claim(connector, model)
    (left,) = connector.pull_model_updates_of_dead_claims(later)
    assert (left.id, left.claim, left.attempts) == (update.id, dead.fence, 1)
    with connector.transaction():
        connector.return_model_updates([left], status=UpdateStatus.FAILED, rest_ms={left.id: LONG})
        connector.close_dead_rounds(later)
    assert connector.pull_model_updates_of_dead_claims(later) == []
    assert [r.state for r in connector.pull_rounds(model)] == [RoundState.RESCUED]
    assert connector.pull_model_updates_ready_for_aggregation(model, None) == [], "it rests"
    assert len(connector.pull_model_updates_pending_aggregation(model)) == 1


def test_updates_taken_back_are_not_completed_by_their_old_claim(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    dead = _claim(connector, model, OVER)
    with connector.transaction():
        (old,) = connector.register_model_updates_for_aggregation([update], claim=dead)
    later = _claim(connector, model)
    with connector.transaction():
        connector.return_model_updates([old], status=UpdateStatus.FAILED)
        (new,) = connector.register_model_updates_for_aggregation([update], claim=later)
        aggregate = connector.post_new_model_aggregate(model, None, world.result(), claim=later)
    with pytest.raises(TransitionRefused), connector.transaction():
        connector.register_model_update_used_in_aggregate([old], aggregate)
    with connector.transaction():
        connector.register_model_update_used_in_aggregate([new], aggregate)


def test_returning_sets_rest_group_and_attempts_of_those_named(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    one, two = world.update(model, 0), world.update(model, 1)
    claim = _claim(connector, model)
    with connector.transaction():
        taken = connector.register_model_updates_for_aggregation([one, two], claim=claim)
        connector.return_model_updates(
            taken, status=UpdateStatus.PENDING, suspect_groups={one.id: 7}, attempts={two.id: 0}
        )
    first, second = connector.pull_model_updates(model)
    assert (first.suspect_group, first.attempts, first.status) == (7, 1, UpdateStatus.PENDING)
    assert (second.suspect_group, second.attempts, second.claim) == (None, 0, None)


def test_a_transition_of_several_updates_is_all_or_nothing(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    free, complete = world.update(model, 0), world.update(model, 1)
    with connector.transaction():
        taken = connector.register_model_updates_for_aggregation([complete])
        aggregate = connector.post_new_model_aggregate(model, None, world.result())
        connector.register_model_update_used_in_aggregate(taken, aggregate)
    with connector.transaction():
        with pytest.raises(TransitionRefused) as refused:
            connector.register_model_updates_invalid([free, complete], ReasonCode.NORM, "too long")
        assert (refused.value.expected, refused.value.found) == (2, 1)
    assert [u.status for u in connector.pull_model_updates(model)] == [UpdateStatus.PENDING, UpdateStatus.COMPLETE]


def test_an_exception_undoes_the_whole_transaction(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)

    def fail() -> None:
        with connector.transaction():
            connector.register_model_updates_for_aggregation([update])
            raise KeyError("half way")

    with pytest.raises(KeyError):
        fail()
    assert world.now(model).fence == 0
    assert connector.pull_model_updates(model)[0].status is UpdateStatus.PENDING


def test_a_transaction_may_be_rolled_back_without_an_exception(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction() as transaction:
        connector.claim_model(model, LONG)
        transaction.set_rollback()
    assert (world.now(model).fence, world.now(model).lease_until) == (0, None)


def test_transactions_do_not_nest(connector: BaseMetadataConnector) -> None:
    with pytest.raises(RuntimeError, match="not nested"), connector.transaction(), connector.transaction():
        pass


@pytest.mark.parametrize(
    "policy",
    [
        {"allow_aggregation": False},
        {"status": ModelStatus.STOPPED},
        {"status": ModelStatus.ERROR},
        {"status": ModelStatus.RESULTS_UPLOADED},
        {"deleted": True},
    ],
    ids=str,
)
def test_the_poll_leaves_models_that_may_not_aggregate(
    connector: BaseMetadataConnector, world: Any, policy: dict[str, Any]
) -> None:
    """`not Model.deleted` once compiled to WHERE false and found nothing: the open one must be there (DESIGN 11)."""
    deleted = policy.get("deleted", False)
    closed, open_model = world.model(**({} if deleted else policy)), world.model()
    world.update(closed)
    world.update(open_model)
    if deleted:
        world.delete(closed)
    assert connector.pull_models_to_aggregate() == [open_model.id]


def test_the_poll_finds_work_and_rescues_but_nothing_held_resting_or_done(
    connector: BaseMetadataConnector, world: Any
) -> None:
    ready, held, resting, done, dead, _idle = (world.model() for _ in range(6))
    world.update(ready)
    world.update(held)
    _claim(connector, held)
    world.update(resting, status=UpdateStatus.FAILED, not_before=int(time.time() * 1000) + LONG)
    world.update(done)
    world.post(done)
    update = world.update(dead)
    with connector.transaction():
        claim = connector.claim_model(dead, OVER)
        connector.register_model_updates_for_aggregation([update], claim=claim)
        connector.change_federated_model(dead, {"allow_aggregation": False})
    assert connector.pull_models_to_aggregate() == [ready.id, dead.id]
