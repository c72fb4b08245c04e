"""What limits on submissions are held against, the same on every connector."""

from __future__ import annotations

from connectors.metadata import BaseMetadataConnector
from connectors.records import ReasonCode, SubmissionLoad, UpdateStatus
from tests.contract.conftest import World


def _counts(load: SubmissionLoad) -> tuple[int, int, int, int]:
    return load.model_updates, load.model_bytes, load.sender_updates, load.sender_bytes


def test_a_load_is_what_waits_of_the_model_and_of_the_sender(connector: BaseMetadataConnector, world: World) -> None:
    """PENDING, RUNNING and FAILED; no other model's."""
    model, other = world.model(clients=2), world.model(clients=1)
    one, two = connector.pull_model_clients(model)
    for client, content in ((0, "four"), (0, "fives"), (1, "sixsix")):
        world.update(model, client, data=world.blob(content))
    world.update(other, data=world.blob("another's"))
    assert _counts(connector.pull_submission_load(model, one)) == (3, 15, 2, 9)
    assert _counts(connector.pull_submission_load(model, two)) == (3, 15, 1, 6)
    assert _counts(connector.pull_submission_load(model, None)) == (3, 15, 0, 0)
    with connector.transaction():
        taken = connector.register_model_updates_for_aggregation(
            connector.pull_model_updates_ready_for_aggregation(model, None)[:1]
        )
    assert _counts(connector.pull_submission_load(model, one)) == (3, 15, 2, 9)
    with connector.transaction():
        connector.return_model_updates(taken, status=UpdateStatus.FAILED)
    assert _counts(connector.pull_submission_load(model, one)) == (3, 15, 2, 9)
    with connector.transaction():
        connector.register_model_updates_invalid(taken, ReasonCode.STALE, "too old")
    assert _counts(connector.pull_submission_load(model, one)) == (2, 11, 1, 5)


def test_a_model_with_nothing_under_way_has_a_load_of_nothing(connector: BaseMetadataConnector, world: World) -> None:
    model = world.model(clients=1)
    world.update(model)
    world.post(model)
    assert _counts(connector.pull_submission_load(model, connector.pull_model_clients(model)[0])) == (0, 0, 0, 0)


def test_rates_are_kept_for_the_model_for_each_client_and_for_all_strangers(
    connector: BaseMetadataConnector, world: World
) -> None:
    model, other = world.model(clients=2), world.model(clients=1)
    one, two = connector.pull_model_clients(model)
    micro = 1_700_000_000_000_000
    with connector.transaction():
        model = connector.lock_model(model)
        connector.register_submission(model, one, model_spent_until=micro, sender_spent_until=micro + 1)
        connector.register_submission(model, None, sender_spent_until=micro + 2)
    with connector.transaction():
        connector.register_submission(connector.lock_model(model), one, model_spent_until=micro + 3)
    found = {client and client.id: connector.pull_submission_load(model, client) for client in (one, two, None)}
    assert {load.model_spent_until for load in found.values()} == {micro + 3}
    assert [load.sender_spent_until for load in found.values()] == [micro + 1, 0, micro + 2]
    untouched = connector.pull_submission_load(other, one)
    assert (untouched.model_spent_until, untouched.sender_spent_until) == (0, 0)


def test_a_load_tells_the_time_of_the_clock_that_leases_go_by(connector: BaseMetadataConnector, world: World) -> None:
    model = world.model()
    with connector.transaction():
        claim = connector.claim_model(model, 0)
    assert claim is not None
    lease_until = world.now(model).lease_until
    assert lease_until is not None
    ahead = connector.pull_submission_load(model, None).now / 1000 - lease_until
    assert -1 <= ahead < 60_000, "milliseconds"
