"""FMA's verbs (DESIGN 1.1), in the order in which FMA's own service calls them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from connectors.errors import ClaimLost, ModelIsClaimed, TransactionRequired, TransitionRefused
from connectors.metadata import BaseMetadataConnector
from connectors.records import ReasonCode, UpdateStatus


def test_create_finds_a_connector_whatever_the_case() -> None:
    """FMA's settings name connectors in every spelling."""
    for name in ("InMemoryMetadataConnector", "inmemory", "INMEMORY"):
        assert type(BaseMetadataConnector.create(name)).__name__ == "InMemoryMetadataConnector"


def test_create_names_the_known_connectors_when_it_knows_no_such() -> None:
    with pytest.raises(ValueError, match=r"'djangoo'.*InMemoryMetadataConnector.*SqlAlchemyMetadataConnector"):
        BaseMetadataConnector.create("djangoo")


def test_create_refuses_the_abstract_layers_between() -> None:
    """`Database` is a subclass too, but nobody's connector."""
    with pytest.raises(ValueError, match="no metadata connector is called 'Database'"):
        BaseMetadataConnector.create("Database", {"url": "sqlite:///x.db"})


def test_a_model_is_found_by_row_id_and_by_uuid(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model(name="digits")
    for key in (model.id, str(model.id), model.uuid, str(model.uuid)):
        found = connector.pull_federated_model_w_id(key)
        assert found is not None
        assert found.name == "digits"


def test_an_unknown_model_is_none(connector: BaseMetadataConnector, world: Any) -> None:
    world.model()
    for key in (4711, uuid4(), str(uuid4()), "not an id"):
        assert connector.pull_federated_model_w_id(key) is None


def test_the_first_aggregate_has_no_parent_and_the_second_has_the_first(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    assert connector.pull_latest_model_aggregate(model) is None
    world.update(model)
    first = world.post(model)
    world.update(model)
    second = world.post(model)
    assert (first.number, first.parent_id) == (1, None)
    assert (second.number, second.parent_id) == (2, first.id)
    latest = connector.pull_latest_model_aggregate(model)
    assert latest is not None
    assert latest.id == second.id
    assert world.now(model).head == 2


def test_a_posted_update_is_complete_in_exactly_that_aggregate(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    aggregate = world.post(model)
    (found,) = connector.pull_model_updates(model)
    assert (found.id, found.status, found.applied_aggregate_id) == (update.id, UpdateStatus.COMPLETE, aggregate.id)
    assert found.claim is None
    assert connector.pull_model_updates(model, applied_aggregate_id=aggregate.id) == [found]


def test_pending_are_pending_and_failed_ones_of_registered_clients(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """FMA's API accepts updates of unregistered clients: they must not count."""
    model, other = world.model(clients=2), world.model(clients=1)
    pending = world.update(model, client=0)
    failed = world.update(model, client=1, status=UpdateStatus.FAILED)
    stranger = connector.pull_model_clients(other)[0]
    world.update(model, client_id=stranger.id, client_uuid=stranger.uuid)
    world.update(model, status=UpdateStatus.INVALID, reason_code=ReasonCode.NORM)
    assert [u.id for u in connector.pull_model_updates_pending_aggregation(model)] == [pending.id, failed.id]


@pytest.mark.parametrize(("furthest", "eligible"), [(None, {0, 1, 2}), (1, {2}), (2, {1, 2})])
def test_the_latest_aggregate_counts_as_the_first_of_the_furthest(
    connector: BaseMetadataConnector, world: Any, furthest: int | None, eligible: set[int]
) -> None:
    """FMA's get_ancestors() leaves the latest out, so that no fresh update was ever eligible (DESIGN 4.3)."""
    model = world.model(clients=3, furthest_base_agg=furthest)
    bases = [None]
    for _ in range(2):
        world.update(model, base_aggregate_id=bases[-1])
        bases.append(world.post(model).id)
    updates = [world.update(model, client=i, base_aggregate_id=base) for i, base in enumerate(bases)]
    latest = connector.pull_latest_model_aggregate(model)
    ready = {u.id for u in connector.pull_model_updates_ready_for_aggregation(model, latest)}
    assert ready == {updates[i].id for i in eligible}


def test_updates_without_a_base_are_ready_until_there_is_an_aggregate(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model(furthest_base_agg=1)
    update = world.update(model)
    assert [u.id for u in connector.pull_model_updates_ready_for_aggregation(model, None)] == [update.id]


def test_requirements_are_name_and_arguments(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model(requirement="require_x_updates", requirement_args=[3])
    assert connector.pull_model_requirements(world.now(model)) == ["require_x_updates", [3]]
    assert connector.pull_model_requirements(world.model()) == [None, None]


def test_registering_makes_updates_running_and_counts_the_attempt(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        (taken,) = connector.register_model_updates_for_aggregation([update])
    assert (taken.status, taken.attempts, taken.claim) == (UpdateStatus.RUNNING, 1, 1)
    assert connector.pull_model_updates_registered_for_aggregation(world.now(model)) == [taken]
    assert connector.pull_model_updates_pending_aggregation(model) == []


def test_registering_without_a_claim_is_refused_while_somebody_holds_one(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        assert connector.claim_model(model, 60_000) is not None
    with pytest.raises(ModelIsClaimed), connector.transaction():
        connector.register_model_updates_for_aggregation([update])


def test_an_update_is_registered_once(connector: BaseMetadataConnector, world: Any) -> None:
    """Re-registering all that is RUNNING is how FMA counts an update twice."""
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        claim = connector.claim_model(model, 60_000)
        assert claim is not None
        connector.register_model_updates_for_aggregation([update], claim=claim)
    with pytest.raises(TransitionRefused), connector.transaction():
        connector.register_model_updates_for_aggregation([update], claim=claim)


def test_a_failed_round_gives_its_updates_back(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        connector.register_model_updates_for_aggregation([update])
        connector.register_model_updates_use_in_aggregation_complete([update], False)
    (found,) = connector.pull_model_updates_pending_aggregation(model)
    assert (found.status, found.attempts, found.claim) == (UpdateStatus.FAILED, 1, None)


def test_an_update_is_not_complete_before_an_aggregate_has_it(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    update = world.update(model)
    with pytest.raises(TransitionRefused), connector.transaction():
        connector.register_model_updates_for_aggregation([update])
        connector.register_model_updates_use_in_aggregation_complete([update], True)
    assert connector.pull_model_updates(model)[0].status is UpdateStatus.PENDING


def test_two_posts_on_one_parent_leave_one_chain(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        connector.post_new_model_aggregate(model, None, world.result())
    with pytest.raises(ClaimLost), connector.transaction():
        connector.post_new_model_aggregate(model, None, world.result())
    assert [a.number for a in connector.pull_model_aggregates(model)] == [1]


def test_writing_outside_a_transaction_is_refused(connector: BaseMetadataConnector, world: Any) -> None:
    """No connector commits by itself: half of a round must never be visible."""
    model = world.model()
    update = world.update(model)
    with pytest.raises(TransactionRequired, match="register_model_updates_for_aggregation"):
        connector.register_model_updates_for_aggregation([update])
    with pytest.raises(TransactionRequired, match="post_new_model_aggregate"):
        connector.post_new_model_aggregate(model, None, world.result())
