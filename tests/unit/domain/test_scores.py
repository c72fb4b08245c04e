"""Scores: a weighted mean, the best aggregate, and patience that ends."""

from __future__ import annotations

from typing import Any

import pytest

from fedqueue.messages import AddScore
from tasks.domain.errors import InvalidScore
from tasks.domain.models import set_paused
from tasks.domain.rounds import run_round
from tasks.domain.scores import Scored, add_score


def _score(bench: Any, model: Any, aggregate: Any, client: Any, value: Any, num_examples: float = 1) -> Scored:
    message = AddScore(
        model_id=model.uuid,
        aggregate_id=aggregate.id,
        client_id=client,
        validation_results={"accuracy": value},
        num_examples=num_examples,
    )
    return add_score(bench.hub, message)


def _aggregates(bench: Any, model: Any, client: Any, count: int) -> list[Any]:
    made = []
    for value in range(count):
        bench.submit(model, client, [float(value)])
        made.append(bench.post(model))
    return made


def test_an_aggregates_score_is_weighted_by_validation_examples(bench: Any) -> None:
    model, (one, two) = bench.model(score_metric="accuracy")
    (aggregate,) = _aggregates(bench, model, one, 1)
    assert _score(bench, model, aggregate, one, 0.5, num_examples=10).validation_score == 0.5
    assert _score(bench, model, aggregate, two, 0.9, num_examples=30).validation_score == pytest.approx(0.8)
    assert _score(bench, model, aggregate, two, 0.7, num_examples=30).validation_score == pytest.approx(0.65)
    stored = bench.metadata.pull_model_aggregate(aggregate.id)
    assert stored.validation_score == pytest.approx(0.65)


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_best_aggregate_is_kept_track_of(bench: Any, mode: str, best: int) -> None:
    model, (one, _) = bench.model(score_metric="accuracy", score_mode=mode)
    aggregates = _aggregates(bench, model, one, 3)
    for aggregate, value in zip(aggregates, (0.1, 0.9, 0.5), strict=True):
        _score(bench, model, aggregate, one, value)
    assert bench.now(model).best_aggregate_id == aggregates[best].id


def test_of_equals_the_older_is_the_best(bench: Any) -> None:
    model, (one, _) = bench.model(score_metric="accuracy")
    first, second = _aggregates(bench, model, one, 2)
    assert _score(bench, model, first, one, 0.5).is_best
    assert not _score(bench, model, second, one, 0.5).is_best


def test_patience_pauses_the_model_and_says_so(bench: Any) -> None:
    model, (one, _) = bench.model(score_metric="accuracy", patience=2)
    aggregates = _aggregates(bench, model, one, 3)
    for aggregate, value in zip(aggregates, (0.9, 0.8, 0.7), strict=True):
        assert bench.now(model).allow_aggregation
        _score(bench, model, aggregate, one, value)
    assert not bench.now(model).allow_aggregation
    stop = bench.metadata.pull_logs(model)[-1]
    assert (stop.event_type, stop.details["best_aggregate"]) == ("EARLY_STOP", aggregates[0].id)
    assert "2 aggregates since number 1 are no better in accuracy" in stop.details["reason"]
    bench.submit(model, one, [9.0])
    assert run_round(bench.hub, model.id).outcome == "paused"
    set_paused(bench.hub, model.uuid, False)
    assert run_round(bench.hub, model.id).outcome == "posted"


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 10**400, -1e200], ids=lambda value: repr(value)[:8])
def test_the_metric_that_decides_must_be_a_number(bench: Any, value: Any) -> None:
    model, (one, _) = bench.model(score_metric="accuracy")
    (aggregate,) = _aggregates(bench, model, one, 1)
    with pytest.raises(InvalidScore) as refused:
        _score(bench, model, aggregate, one, value)
    assert refused.value.field == "validation_results.accuracy"


def test_without_a_metric_scores_are_only_kept(bench: Any) -> None:
    model, (one, _) = bench.model()
    (aggregate,) = _aggregates(bench, model, one, 1)
    assert _score(bench, model, aggregate, one, 0.5) == Scored(
        bench.metadata.pull_client_aggregate_scores(aggregate)[0], None, False
    )
