"""What a round waits for, asked without beginning one: the same as the round itself would say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from connectors.errors import StoreUnavailable, Unavailable
from connectors.records import FederatedModel, ModelStatus, RoundState
from tasks.domain.claiming import Begun, NotBegun, begin_round, why_not_begun
from tasks.domain.feed_views import view_progress
from tasks.domain.models import set_paused
from tasks.domain.requirements import registry
from tasks.domain.rounds import run_round


@pytest.fixture
def bench(bench: Any) -> Any:
    """With this machine's clock, by which it is told what a round waits for."""
    bench.milliseconds = time.time_ns() // 1_000_000
    return bench


def _why(bench: Any, model: FederatedModel) -> NotBegun | None:
    return why_not_begun(bench.metadata, bench.now(model))


def _stop(bench: Any, model: FederatedModel) -> None:
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, ModelStatus.STOPPED)


@pytest.mark.parametrize(
    ("policy", "before", "outcome", "reason"),
    [
        ({"requirement": "all_clients"}, None, "waiting", "all_clients: 1 of 2"),
        ({"aggregator": "krum", "aggregator_params": {"num_byzantine": 1}}, None, "waiting", "krum: 1 of 5 updates"),
        ({}, lambda bench, model: set_paused(bench.hub, model.uuid, True), "paused", "aggregation is paused"),
        ({}, _stop, "over", "STOPPED"),
        ({}, lambda bench, model: run_round(bench.hub, model.id), "idle", "no update is ready"),
    ],
)
def test_it_is_what_a_round_would_say(
    bench: Any,
    policy: dict[str, Any],
    before: Callable[[Any, FederatedModel], object] | None,
    outcome: str,
    reason: str,
) -> None:
    model, (one, _) = bench.model(**policy)
    bench.submit(model, one, [1.0])
    if before is not None:
        before(bench, model)
    rounds = len(bench.metadata.pull_rounds(model))
    why = _why(bench, model)
    assert why is not None
    assert why.outcome == outcome
    assert reason in why.reason
    view = view_progress(bench.metadata, bench.now(model))
    assert (view.next_aggregate, view.waits_for) == (why.outcome, why.reason)
    found = run_round(bench.hub, model.id)
    assert (found.outcome, found.reason) == (why.outcome, why.reason)
    assert len(bench.metadata.pull_rounds(model)) == rounds


def test_a_round_that_is_due_waits_for_nothing_and_asking_begins_none(bench: Any) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    assert _why(bench, model) is None
    assert view_progress(bench.metadata, bench.now(model)).next_aggregate == "due"
    assert bench.metadata.pull_rounds(model) == []
    assert bench.post(model).number == 1


def test_a_round_under_way_is_told_until_its_lease_is_over(bench: Any) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    begun = bench.metadata.transact(lambda transaction: begin_round(bench.hub, model.id, transaction))
    assert isinstance(begun, Begun)
    why = _why(bench, model)
    assert why is not None
    assert why.outcome == "claimed"
    assert [each.state for each in bench.metadata.pull_rounds(model)] == [RoundState.CLAIMED]


def test_updates_that_rest_after_a_fault_are_not_waited_for_as_more_would_be(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows that no more will come would give up else, though these make a round when their rest is over."""
    model, (one, two) = bench.model(requirement="require_x_updates", requirement_args=[2])
    for client in (one, two):
        bench.submit(model, client, [1.0])

    def away(*_: Any) -> Any:
        raise StoreUnavailable("no route to the store")

    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "open", away)
        with pytest.raises(StoreUnavailable):
            run_round(bench.hub, model.id)
    bench.submit(model, one, [3.0])
    assert run_round(bench.hub, model.id).outcome == "waiting"
    assert _why(bench, model) == NotBegun("resting", "2 updates rest after a fault")


def test_what_a_plugin_or_an_unchecked_policy_raises_is_the_answer(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (one, _) = bench.model(requirement="all_clients")
    bench.submit(model, one, [1.0])
    monkeypatch.delitem(registry._requirements, "all_clients")
    why = _why(bench, model)
    assert why is not None
    assert why.outcome == "misconfigured"
    assert "no requirement is called 'all_clients'" in why.reason


def test_a_database_that_is_away_is_no_answer(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (one, _) = bench.model(requirement="all_clients")
    bench.submit(model, one, [1.0])

    def away(*_: Any) -> Any:
        raise Unavailable("no route to the database")

    monkeypatch.setattr(bench.metadata, "pull_model_clients", away)
    with pytest.raises(Unavailable):
        _why(bench, model)
