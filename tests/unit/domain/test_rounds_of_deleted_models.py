"""A round whose model is deleted meanwhile posts nothing, blames nobody and leaves nothing on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.errors import StoreUnavailable
from connectors.records import FederatedModel, ModelStatus, RoundState, UpdateStatus
from fedqueue.messages import ModelRef
from tasks.domain import rounds
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.combining import Culprit, RoundFailed
from tasks.domain.deletion import delete_model
from tasks.domain.rounds import finish_round, run_round
from tests.unit.domain.conftest import Bench


def begun_round(bench: Bench, model: FederatedModel) -> Begun:
    """The model's round, claimed by a worker that has not gone on yet."""
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
    assert isinstance(begun, Begun)
    return begun


def delete(bench: Bench, model: FederatedModel) -> None:
    assert delete_model(bench.hub, ModelRef(model_id=model.uuid)) == 1


def check_untouched(bench: Bench, model: FederatedModel) -> None:
    """As if the round had never been claimed, but for the note that it was let go."""
    assert bench.metadata.pull_model_aggregates(model) == []
    updates = bench.metadata.pull_model_updates(model)
    assert [(u.status, u.attempts, u.claim) for u in updates] == [(UpdateStatus.PENDING, 0, None)] * len(updates)
    assert [log.event_type for log in bench.metadata.pull_logs(model) if not log.success] == []
    assert bench.now(model).status is ModelStatus.RUNNING


def test_a_round_in_flight_of_a_model_that_is_deleted_posts_nothing(bench: Bench) -> None:
    model, (one, two) = bench.model()
    bench.submit(model, one, [1.0])
    bench.submit(model, two, [3.0])
    begun = begun_round(bench, model)
    delete(bench, model)
    assert finish_round(bench.hub, begun).outcome == "deleted"
    check_untouched(bench, model)
    (noted,) = bench.metadata.pull_rounds(model)
    assert (noted.state, noted.reason) == (RoundState.RELEASED, "the model was deleted meanwhile")
    assert bench.metadata.pull_models_to_aggregate() == [], "the sweep has nothing more to do with it"
    assert run_round(bench.hub, model.id).outcome == "deleted"


@pytest.mark.parametrize("what", ["failure", "culprit", "outage"])
def test_what_goes_wrong_in_a_deleted_model_s_round_is_nobody_s_failure(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ERROR for the model nor quarantine for an update, though the last attempt was due."""
    bench = Bench(tmp_path, max_attempts=1)
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    begun = begun_round(bench, model)

    def goes_wrong(*_: Any) -> Any:
        delete(bench, model)
        if what == "outage":
            raise StoreUnavailable("the store is away")
        if what == "culprit":
            raise Culprit(begun.updates[0], "CORRUPT", "it is damaged")  # type: ignore[arg-type]
        raise RoundFailed("it can't be combined")

    monkeypatch.setattr(rounds, "combine_round", goes_wrong)
    assert finish_round(bench.hub, begun).outcome == "deleted"
    check_untouched(bench, model)


def test_a_dead_worker_s_round_of_a_deleted_model_is_cleared_away(bench: Bench) -> None:
    """Nothing stays RUNNING for ever (I8), and the crash is held against nobody."""
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    begun_round(bench, model)
    delete(bench, model)
    bench.milliseconds += 10_000_000
    assert bench.metadata.pull_models_to_aggregate() == [model.id]
    assert run_round(bench.hub, model.id).outcome == "deleted"
    check_untouched(bench, model)
    assert [each.state for each in bench.metadata.pull_rounds(model)] == [RoundState.RESCUED]
    assert bench.metadata.pull_models_to_aggregate() == []
