"""A round's rules, with real files and a clock that the test turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from connectors.errors import ClaimLost, StoreUnavailable
from connectors.records import ModelStatus, ReasonCode, RoundState, UpdateStatus
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.combining import recipe_of
from tasks.domain.leases import LeaseKeeper
from tasks.domain.models import set_paused
from tasks.domain.rounds import finish_round, run_round


def test_fmas_published_case(bench: Any) -> None:
    """[1,2,4] and [5,2,3] give [3.0, 2.0, 3.5]; the first aggregate has no parent, the second has the first."""
    model, (one, two) = bench.model(aggregator="avg_values_if_data", requirement="all_clients")
    bench.submit(model, one, [1, 2, 4])
    assert run_round(bench.hub, model.id).outcome == "waiting"
    bench.submit(model, two, [5, 2, 3])
    first = bench.post(model)
    assert bench.values(model) == {"values": [3.0, 2.0, 3.5]}
    bench.submit(model, one, [1, 2, 4])
    bench.submit(model, two, [1, 2, 4])
    second = bench.post(model)
    assert first.parent_id is None
    assert second.parent_id == first.id


def test_ragged_layers_average_layer_by_layer(bench: Any) -> None:
    model, (one, two) = bench.model(aggregator="average_layers", requirement="require_x_updates", requirement_args=[2])
    bench.submit(model, one, [[2, 4], [[1, 2], [3, 4]], [2]])
    bench.submit(model, two, [[4, 8], [[3, 2], [1, 0]], [5]])
    assert run_round(bench.hub, model.id).outcome == "posted"
    assert bench.values(model) == {"0": [3.0, 6.0], "1": [2.0, 2.0, 2.0, 2.0], "2": [3.5]}


def test_fedavg_weighs_by_examples(bench: Any) -> None:
    model, (one, two) = bench.model(data_format="safetensors", requirement="require_x_clients", requirement_args=[2])
    bench.submit_arrays(model, one, {"w": [0.0, 4.0]}, num_examples=1)
    bench.submit_arrays(model, two, {"w": [4.0, 0.0]}, num_examples=3)
    assert run_round(bench.hub, model.id).outcome == "posted"
    assert bench.values(model) == {"w": [3.0, 1.0]}


def test_the_aggregate_says_what_went_into_it(bench: Any) -> None:
    model, (one, two) = bench.model(requirement="all_clients")
    updates = [bench.submit(model, one, [1.0], num_examples=2), bench.submit(model, two, [4.0], num_examples=4)]
    aggregate = bench.post(model)
    assert (aggregate.num_updates, aggregate.num_examples, aggregate.number) == (2, 6.0, 1)
    assert [i["digest"] for i in aggregate.manifest["inputs"]] == [u.data.digest for u in updates]
    assert [i["num_examples"] for i in aggregate.manifest["inputs"]] == [2.0, 4.0]
    assert (aggregate.manifest["aggregator"], aggregate.manifest["parent"]) == ("fedavg", None)
    assert aggregate.manifest["digest"] == aggregate.data.digest


def test_a_second_look_posts_nothing_twice(bench: Any) -> None:
    """A redelivered aggregate task finds nothing left to do."""
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    assert run_round(bench.hub, model.id).outcome == "posted"
    assert run_round(bench.hub, model.id).outcome == "idle"
    assert bench.now(model).head == 1


def test_waiting_costs_no_fence(bench: Any) -> None:
    """A look at a model that waits is rolled back: thousands of looks write nothing."""
    model, (one, _) = bench.model(requirement="all_clients")
    bench.submit(model, one, [1.0])
    outcome = run_round(bench.hub, model.id)
    assert (outcome.outcome, outcome.reason) == ("waiting", "all_clients: 1 of 2 clients")
    assert (bench.now(model).fence, bench.now(model).lease_until) == (0, None)


def test_a_requirement_counts_clients_not_rows(bench: Any) -> None:
    model, (one, two) = bench.model(requirement="require_x_clients", requirement_args=[2])
    bench.submit(model, one, [1.0])
    bench.submit(model, one, [3.0])
    assert run_round(bench.hub, model.id).reason == "require_x_clients: 1 of 2 clients"
    bench.submit(model, two, [5.0])
    assert run_round(bench.hub, model.id).outcome == "posted"
    assert bench.values(model) == {"values": [4.0]}


def test_a_deadline_is_honoured_by_a_later_look(bench: Any) -> None:
    """No countdown is sent: the sweep looks again, and the database's clock decides."""
    model, (one, _) = bench.model(requirement="deadline", requirement_args={"seconds": 60, "min_updates": 1})
    bench.submit(model, one, [1.0])
    bench.milliseconds += 59_000
    assert run_round(bench.hub, model.id).reason == "deadline: 1 of 1 updates, 59.0 of 60 s since the first"
    assert bench.metadata.pull_models_to_aggregate() == [model.id]
    bench.milliseconds += 1_000
    assert run_round(bench.hub, model.id).outcome == "posted"


def test_of_one_clients_updates_the_newest_counts(bench: Any) -> None:
    model, (one, _) = bench.model()
    older, newer = bench.submit(model, one, [1.0]), bench.submit(model, one, [3.0])
    run_round(bench.hub, model.id)
    assert bench.values(model) == {"values": [3.0]}
    assert bench.update(newer).status is UpdateStatus.COMPLETE
    superseded = bench.update(older)
    assert (superseded.status, superseded.reason_code) == (UpdateStatus.INVALID, ReasonCode.DUPLICATE)
    assert f"update {newer.id}" in superseded.reason


def test_repeats_count_where_the_model_allows_them(bench: Any) -> None:
    model, (one, _) = bench.model(allow_repeats=True)
    bench.submit(model, one, [1.0])
    bench.submit(model, one, [3.0])
    run_round(bench.hub, model.id)
    assert bench.values(model) == {"values": [2.0]}


def test_a_paused_model_waits_and_goes_on(bench: Any) -> None:
    model, (one, _) = bench.model()
    set_paused(bench.hub, model.uuid, True)
    bench.submit(model, one, [1.0])
    assert run_round(bench.hub, model.id).outcome == "paused"
    set_paused(bench.hub, model.uuid, False)
    assert run_round(bench.hub, model.id).outcome == "posted"


def test_an_update_that_grew_stale_while_resting_is_set_aside(bench: Any) -> None:
    """It was near enough when it came; the round went on without it while it rested."""
    model, (one, two) = bench.model(furthest_base_agg=1)
    resting = bench.submit(model, two, [5.0])
    with bench.metadata.transaction():
        claim = bench.metadata.claim_model(model, 1000)
        running = bench.metadata.register_model_updates_for_aggregation([resting], claim=claim)
        bench.metadata.return_model_updates(running, status=UpdateStatus.FAILED, rest_ms={resting.id: 60_000})
        bench.metadata.release_claim(claim)
    bench.submit(model, one, [1.0])
    assert bench.post(model).num_updates == 1
    assert run_round(bench.hub, model.id).outcome == "idle"
    stale = bench.update(resting)
    assert (stale.status, stale.reason_code) == (UpdateStatus.INVALID, ReasonCode.STALE)
    assert "trained from no aggregate; the newest is number 1 and only the 1 newest count" in stale.reason


def test_an_update_that_rests_waits_for_its_time(bench: Any) -> None:
    """What has just failed is not tried again at once, though others of its model are ready."""
    model, (one, two) = bench.model()
    resting = bench.submit(model, two, [5.0])
    with bench.metadata.transaction():
        claim = bench.metadata.claim_model(model, 1000)
        running = bench.metadata.register_model_updates_for_aggregation([resting], claim=claim)
        bench.metadata.return_model_updates(running, status=UpdateStatus.FAILED, rest_ms={resting.id: 60_000})
        bench.metadata.release_claim(claim)
    bench.submit(model, one, [1.0])
    bench.post(model)
    assert bench.values(model) == {"values": [1.0]}
    bench.milliseconds += 60_000
    bench.post(model)
    assert bench.values(model) == {"values": [5.0]}


def test_a_round_sums_by_ascending_id_whatever_the_order_it_is_given(bench: Any) -> None:
    """1e16 + 1 - 1e16 is 0 in float64; with the two large ones first it would be 1."""
    model, clients = bench.model(clients=3)
    for client, value in zip(clients, (1e16, 1.0, -1e16), strict=True):
        bench.submit(model, client, [value])
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
    assert isinstance(begun, Begun)
    first, second, third = begun.updates
    assert first.id < second.id < third.id
    recipe = recipe_of(bench.hub, replace(begun, updates=(third, first, second)))
    assert [ingredient.update_id for ingredient in recipe.ingredients] == [first.id, second.id, third.id]
    finish_round(bench.hub, replace(begun, updates=(third, first, second)))
    assert bench.values(model) == {"values": [0.0]}


def test_the_hub_walks_the_models_status(bench: Any) -> None:
    model, _ = bench.model(clients=0, max_rounds=1)
    assert bench.now(model).status is ModelStatus.PENDING
    model, (one, _) = bench.model(max_rounds=1)
    assert model.status is ModelStatus.INITIATED
    bench.submit(model, one, [1.0])
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
        assert isinstance(begun, Begun)
        assert begun.model.status is ModelStatus.RUNNING
        transaction.set_rollback()
    run_round(bench.hub, model.id)
    assert bench.now(model).status is ModelStatus.RESULTS_UPLOADED
    actions = [str(action) for action, _user in bench.metadata.pull_audit(model)]
    assert actions == ["CREATE", "INITIATED", "RUNNING", "RESULTS_UPLOADED"]


def test_a_dead_workers_updates_are_taken_back_and_counted_once(bench: Any) -> None:
    model, (one, _) = bench.model()
    update = bench.submit(model, one, [1.0])
    for _ in range(2):
        with bench.metadata.transaction() as transaction:
            begun = begin_round(bench.hub, model.id, transaction)
        assert isinstance(begun, Begun), "the first time it goes on at once: it has rested for a lease"
        assert run_round(bench.hub, model.id).outcome == "claimed"
        bench.milliseconds += 30_001
    assert run_round(bench.hub, model.id).outcome == "idle", "taken back, and resting from the second time on"
    assert bench.update(update).status is UpdateStatus.FAILED
    bench.milliseconds += 60_000
    assert run_round(bench.hub, model.id).outcome == "posted"
    found = bench.update(update)
    assert (found.status, found.attempts) == (UpdateStatus.COMPLETE, 3)
    assert [r.state for r in bench.metadata.pull_rounds(model)][1:] == [RoundState.RESCUED] * 2


def test_a_zombie_posts_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that slept through its lease wakes up after the rescue posted the round."""
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    open_blob = bench.store.open
    slept: list[bool] = []

    def sleep_then_open(*arguments: Any) -> Any:
        if not slept:
            slept.append(True)
            bench.milliseconds += 30_001
            assert run_round(bench.hub, model.id).outcome == "posted"
        return open_blob(*arguments)

    monkeypatch.setattr(bench.store, "open", sleep_then_open)
    assert run_round(bench.hub, model.id).outcome == "overtaken"
    assert bench.now(model).head == 1


def test_a_bad_update_is_set_aside_and_the_others_go_on(bench: Any) -> None:
    """Its bytes were damaged after it was accepted."""
    model, (one, two) = bench.model(requirement="require_x_updates", requirement_args=[1])
    good, bad = bench.submit(model, one, [1.0]), bench.submit(model, two, [3.0])
    from fedqueue.blobs import path_of

    path_of(bad.data.uri).write_text("[1.0")
    outcome = run_round(bench.hub, model.id)
    assert (outcome.outcome, outcome.look_again) == ("set_aside", True)
    assert run_round(bench.hub, model.id).outcome == "posted"
    assert bench.values(model) == {"values": [1.0]}
    assert bench.update(bad).reason_code is ReasonCode.CORRUPT
    assert bench.update(good).attempts == 1, "somebody else's fault does not count"


def test_a_store_that_is_away_condemns_nobody(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (one, _) = bench.model()
    update = bench.submit(model, one, [1.0])

    def away(*_: Any) -> Any:
        raise StoreUnavailable("no route to the store")

    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "open", away)
        for _ in range(bench.hub.settings.max_attempts + 2):
            with pytest.raises(StoreUnavailable):
                run_round(bench.hub, model.id)
            bench.milliseconds += 60_000
    found = bench.update(update)
    assert (found.status, found.attempts) == (UpdateStatus.FAILED, 0)
    failed = [log for log in bench.metadata.pull_logs(model) if log.event_type == "ROUND_FAILED"]
    assert failed[0].details == {"reason": "no route to the store"}
    assert run_round(bench.hub, model.id).outcome == "posted"


def test_a_missing_blob_is_waited_for_and_then_set_aside(bench: Any) -> None:
    """A store that is not mounted looks like this too: one look is not enough to condemn."""
    from fedqueue.blobs import path_of

    model, (one, two) = bench.model()
    gone, good = bench.submit(model, one, [7.0]), bench.submit(model, two, [1.0])
    path_of(gone.data.uri).unlink()
    outcomes = []
    for _ in range(bench.hub.settings.max_attempts + 1):
        outcomes.append(run_round(bench.hub, model.id).outcome)
        bench.milliseconds += 60_001
    assert outcomes == ["failed"] * 4 + ["set_aside", "posted"]
    assert bench.update(gone).reason_code is ReasonCode.CORRUPT
    assert bench.update(good).status is UpdateStatus.COMPLETE


def test_the_lease_is_renewed_every_third_of_it(bench: Any) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
    assert isinstance(begun, Begun)
    seconds = [0.0]
    keeper = LeaseKeeper(bench.hub, begun.claim, [100, 100], clock=lambda: seconds[0])
    seconds[0] = 9.9
    keeper.note_bytes(50)
    assert bench.metadata.pull_rounds(model)[0].bytes_done == 0
    bench.milliseconds += 10_000
    seconds[0] = 10.0
    keeper.note_bytes(100)
    assert bench.now(model).lease_until == bench.milliseconds + 30_000
    found = bench.metadata.pull_rounds(model)[0]
    assert (found.bytes_done, found.updates_done) == (100, 1)
    bench.milliseconds += 40_000
    run_round(bench.hub, model.id)
    seconds[0] = 30.0
    with pytest.raises(ClaimLost):
        keeper.note_bytes(200)


def test_a_claim_is_kept_while_the_store_takes_long_and_only_then(bench: Any) -> None:
    """An upload of a large model takes many leases: every round of it would be overtaken, and its updates condemned."""
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
    assert isinstance(begun, Begun)
    hub = replace(bench.hub, settings=bench.hub.settings.model_copy(update={"lease_seconds": 0.12}))
    with LeaseKeeper(hub, begun.claim, [100]) as keeper:
        bench.milliseconds += 60_000
        with keeper.storing():
            _wait_until(lambda: bench.now(model).lease_until == bench.milliseconds + 120)
        bench.milliseconds += 60_000
        time.sleep(0.3)
        assert bench.now(model).lease_until < bench.milliseconds  # what computes renews by itself, or not at all
        run_round(bench.hub, model.id)  # which takes the updates back, and so the fence
        with pytest.raises(ClaimLost), keeper.storing():
            _wait_until(lambda: not keeper.is_standing_by)


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 8
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_poisonous_update_is_found_by_halving_and_the_rest_go_on(bench: Any) -> None:
    """Five updates, the fourth takes its worker down whoever it is with: the other four are posted together."""
    model, clients = bench.model(clients=5, requirement="require_x_updates", requirement_args=[4])
    updates = [bench.submit(model, client, [float(i)]) for i, client in enumerate(clients)]
    poison = updates[3].id
    crashes = 0
    for _ in range(60):
        with bench.metadata.transaction() as transaction:
            begun = begin_round(bench.hub, model.id, transaction)
            if isinstance(begun, Begun) and poison not in {u.id for u in begun.updates}:
                transaction.set_rollback()  # this one is harmless: let run_round do it
        if isinstance(begun, Begun) and poison in {u.id for u in begun.updates}:
            crashes += 1  # the worker dies here: nobody says anything until the lease is over
            bench.milliseconds += 30_001
        elif run_round(bench.hub, model.id).outcome == "posted":
            break
        bench.milliseconds += 60_001
    states = [bench.update(u) for u in updates]
    assert [u.status for u in states].count(UpdateStatus.COMPLETE) == 4
    assert (states[3].status, states[3].reason_code) == (UpdateStatus.INVALID, ReasonCode.POISON)
    assert bench.values(model) == {"values": [(0 + 1 + 2 + 4) / 4]}
    assert crashes <= bench.hub.settings.max_attempts + 3, "five whole rounds, then log2 of five probes"


def test_an_overtaken_probe_changes_nothing(bench: Any) -> None:
    """It used to break over updates that were not its own any more."""
    model, (one, two) = bench.model(clients=2, requirement="all_clients")
    for client in (one, two):
        bench.submit(model, client, [1.0])
    probe = None
    while not (isinstance(probe, Begun) and probe.is_probe):
        with bench.metadata.transaction() as transaction:
            probe = begin_round(bench.hub, model.id, transaction)
        bench.milliseconds += 90_001
    # A later claim takes the probed one for crashed, and goes on with the other suspect.
    run_round(bench.hub, model.id)
    before = bench.metadata.pull_model_updates(model)
    assert finish_round(bench.hub, probe).outcome == "overtaken"
    assert bench.metadata.pull_model_updates(model) == before


def test_a_round_that_crashes_without_a_culprit_ends_in_error(bench: Any) -> None:
    """Each update alone is harmless, together they are not: the model stops and says why, it does not try for ever."""
    model, clients = bench.model(clients=2, requirement="all_clients")
    for client in clients:
        bench.submit(model, client, [1.0])
    for _ in range(60):
        with bench.metadata.transaction() as transaction:
            begun = begin_round(bench.hub, model.id, transaction)
            if isinstance(begun, Begun) and begun.is_probe:
                transaction.set_rollback()
        if isinstance(begun, Begun) and begun.is_probe:
            assert run_round(bench.hub, model.id).outcome == "probed"
        bench.milliseconds += 90_001
    assert bench.now(model).status is ModelStatus.ERROR
    feed = {entry.event_type: entry for entry in bench.metadata.pull_logs(model, limit=1000)}
    assert (feed["ROUND_FAILED"].success, feed["ERROR"].success) == (False, False)
    assert "although each update alone does not" in feed["ROUND_FAILED"].details["reason"]
