"""Rounds of aggregators that take no fewer than so many updates: they wait, and waiting costs nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from connectors.records import FederatedModel, ReasonCode, UpdateStatus
from tasks.aggregation import Aggregator, AggregatorParams, TooFewUpdates, find_aggregator, registry
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.due import fewest_for
from tasks.domain.rounds import run_round

_DP = {"clip": 1.0, "delta": 1e-5, "adaptive_clip": True, "noise_multiplier": 0.25}


@pytest.mark.parametrize(
    ("aggregator", "params", "fewest"),
    [
        ("krum", {"num_byzantine": 1}, 5),
        ("multi_krum", {"num_byzantine": 1, "m": 3}, 6),
        ("bulyan", {"num_byzantine": 1}, 7),
        ("trimmed_mean", {"beta": 0.25}, 4),
        ("dp_fedavg", _DP, 3),
    ],
)
def test_a_round_with_too_few_updates_is_not_begun(
    bench: Any, aggregator: str, params: dict[str, Any], fewest: int
) -> None:
    """No claim, no fence, no attempt: it was claimed and let go at every look, or failed until the model was over."""
    model, clients = bench.model(
        clients=fewest, aggregator=aggregator, aggregator_params=params, initial_data=[0.0, 0.0]
    )
    for count, client in enumerate(clients[:-1], 1):
        bench.submit(model, client, [1.0, float(count)])
        outcome = run_round(bench.hub, model.id)
        assert outcome.outcome == "waiting"
        assert outcome.reason == f"{aggregator}: {count} of {fewest} updates, the fewest it takes with its parameters"
    assert (bench.now(model).fence, bench.now(model).lease_until) == (0, None)
    assert bench.metadata.pull_rounds(model) == []
    assert {(u.status, u.attempts) for u in bench.metadata.pull_model_updates(model)} == {(UpdateStatus.PENDING, 0)}
    bench.submit(model, clients[-1], [1.0, 0.0])
    assert bench.post(model).num_updates == fewest


def test_of_one_client_only_the_newest_update_counts_towards_the_fewest(bench: Any) -> None:
    model, (one, *_) = bench.model(aggregator="krum", aggregator_params={"num_byzantine": 0})
    for value in (1.0, 2.0, 3.0):
        bench.submit(model, one, [value])
    assert run_round(bench.hub, model.id).reason.startswith("krum: 1 of 3 updates")


def test_the_root_of_fltrust_is_no_update_to_be_combined(bench: Any) -> None:
    """The root alone began a round of nobody, which failed until the model was over."""
    model, (root, other) = bench.model(
        initial_data=[0.0, 0.0], aggregator="fltrust", aggregator_params={"root_update": "client 0"}
    )
    bench.submit(model, root, [2.0, 0.0])
    outcome = run_round(bench.hub, model.id)
    assert (outcome.outcome, outcome.reason.split(",")[0]) == ("waiting", "fltrust: 0 of 1 updates")
    assert bench.now(model).fence == 0
    bench.submit(model, other, [1.0, 0.0])
    bench.post(model)
    assert bench.values(model) == {"values": [2.0, 0.0]}


@pytest.mark.parametrize(
    ("aggregator", "params"), [("krum", {"num_byzantine": 1}), ("fltrust", {"root_update": "client 0"})]
)
def test_poison_is_found_though_a_few_suspects_are_too_few_for_the_aggregator(
    bench: Any, aggregator: str, params: dict[str, Any]
) -> None:
    """Suspects by themselves were refused unread: claimed and let go for ever, or failed until the model was over."""
    model, clients = bench.model(
        clients=6,
        aggregator=aggregator,
        aggregator_params=params,
        initial_data=[0.0],
        requirement="require_x_updates",
        requirement_args=[5],
    )
    updates = [bench.submit(model, client, [float(i + 1)]) for i, client in enumerate(clients)]
    poison = updates[3]
    for _ in range(60):
        with bench.metadata.transaction() as transaction:
            begun = begin_round(bench.hub, model.id, transaction)
            crashes = isinstance(begun, Begun) and poison.id in {u.id for u in begun.updates}
            if isinstance(begun, Begun) and not crashes:
                transaction.set_rollback()  # harmless: run_round does it
        outcome = "" if crashes else run_round(bench.hub, model.id).outcome
        assert outcome == "probed" or not (isinstance(begun, Begun) and begun.is_probe) or crashes, "it was read"
        if outcome == "posted":
            break
        bench.milliseconds += 90_001
    states = [bench.update(update) for update in updates]
    assert [u.status for u in states].count(UpdateStatus.COMPLETE) == 5
    assert (states[3].status, states[3].reason_code) == (UpdateStatus.INVALID, ReasonCode.POISON)


def test_suspects_that_an_aggregator_refuses_unasked_are_let_go_once(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that only raises: its suspects are cleared, so that they are not probed for ever."""
    fedavg = find_aggregator("fedavg")

    def needs(params: AggregatorParams, inputs: Any) -> Any:
        if len(inputs.updates) < 2:
            raise TooFewUpdates("pairs", len(inputs.updates), 2, "it pairs them")
        return fedavg.needs(params, inputs)

    pairs = Aggregator("pairs", fedavg.params, needs, fedavg.combine_chunk)
    monkeypatch.setitem(registry._aggregators, "pairs", pairs)
    model, clients = bench.model(aggregator="pairs", requirement="all_clients")
    for client in clients:
        bench.submit(model, client, [1.0])
    probe = None
    while not (isinstance(probe, Begun) and probe.is_probe):
        with bench.metadata.transaction() as transaction:
            probe = begin_round(bench.hub, model.id, transaction)
            if isinstance(probe, Begun) and probe.is_probe:
                transaction.set_rollback()
        bench.milliseconds += 90_001
    outcomes = [run_round(bench.hub, model.id) for _ in range(3)]
    assert [outcome.outcome for outcome in outcomes] == ["waiting", "waiting", "posted"]
    assert "pairs needs 2 updates" in outcomes[0].reason


def test_parameters_that_no_longer_hold_are_left_to_the_round_to_tell() -> None:
    """A plugin's newer version refuses what an older one took: the claim must not be where that is met."""
    model = FederatedModel(1, uuid4(), aggregator="krum", aggregator_params={"gone": 1})
    assert fewest_for(model) == 1
