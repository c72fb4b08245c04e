"""Scores: what clients measured of an aggregate, which one is the best, and when to stop looking for a better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, Final
from uuid import uuid5

from jsonschema import Draft202012Validator

from connectors.records import ClientAggregateScore, FederatedModel, ModelAggregate
from fedqueue.messages import AddScore
from tasks.domain.errors import InvalidScore, UnknownAggregate, UnknownClient
from tasks.domain.json_schemas import find_instance_fault
from tasks.domain.models import lock_model
from tasks.hub import Hub

# Weighted and summed it must still be a float.
_LARGEST: Final = 1e100


@dataclass(frozen=True, slots=True)
class Scored:
    """A score as recorded, and what it did."""

    score: ClientAggregateScore
    validation_score: float | None
    is_best: bool


def add_score(hub: Hub, message: AddScore) -> Scored:
    """The client's one score of the aggregate (a newer one replaces it); the best aggregate is kept track of.

    Raises: UnknownModel, UnknownAggregate, UnknownClient, InvalidScore.
    """

    def add(_: object) -> Scored:
        metadata = hub.metadata
        model = lock_model(hub, message.model_id)
        aggregate = metadata.pull_model_aggregate(message.aggregate_id)
        if aggregate is None or aggregate.model_id != model.id:
            raise UnknownAggregate(message.aggregate_id, message.model_id, "aggregate_id")
        client = metadata.pull_client(message.client_id, model)
        if client is None:
            raise UnknownClient(message.client_id, message.model_id)
        _check_results(model, message)
        score = metadata.post_client_aggregate_score(
            aggregate, client, message.validation_results, message.num_examples
        )
        if model.score_metric is None:
            return Scored(score, None, False)
        value = validation_score_of(model.score_metric, metadata.pull_client_aggregate_scores(aggregate))
        metadata.register_validation_score(aggregate, value)
        best = _track_best(hub, model)
        return Scored(score, value, best is not None and best.id == aggregate.id)

    return hub.metadata.transact(add)


def validation_score_of(metric: str, scores: Sequence[ClientAggregateScore]) -> float | None:
    """The mean of the metric over the clients that measured it, weighted by their validation examples."""
    measured = [
        (score.num_examples, float(score.validation_results[metric])) for score in scores if _has(score, metric)
    ]
    if not measured:
        return None
    return fsum(weight * value for weight, value in measured) / fsum(weight for weight, _ in measured)


def _has(score: ClientAggregateScore, metric: str) -> bool:
    return _is_measure(score.validation_results.get(metric))


def _is_measure(value: Any) -> bool:
    # JSON's whole numbers have no end, and a float's do.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _check_results(model: FederatedModel, message: AddScore) -> None:
    if model.client_agg_results_schema is not None:
        fault = find_instance_fault(Draft202012Validator, model.client_agg_results_schema, message.validation_results)
        if fault is not None:
            raise InvalidScore(fault)
    if model.score_metric is not None:
        value = message.validation_results.get(model.score_metric)
        if not _is_measure(value):
            raise InvalidScore(
                f"{model.score_metric!r} must be a number up to {_LARGEST:g}: the model's aggregates are scored by it",
                field=f"validation_results.{model.score_metric}",
            )


def _track_best(hub: Hub, model: FederatedModel) -> ModelAggregate | None:
    """Set the model's best aggregate; pause it when `patience` newer scored ones are no better. It must be locked."""
    scored = [a for a in _all_aggregates(hub, model) if a.validation_score is not None]
    if not scored:
        return None
    sign = 1 if model.score_mode == "max" else -1
    # Of equals the oldest: a later one has to be better, not as good.
    best = max(scored, key=lambda a: (sign * (a.validation_score or 0.0), -a.number))
    if best.id != model.best_aggregate_id:
        hub.metadata.change_federated_model(model, {"best_aggregate_id": best.id})
    worse = sum(1 for a in scored if a.number > best.number)
    if model.patience is not None and worse >= model.patience and model.allow_aggregation:
        hub.metadata.change_federated_model(model, {"allow_aggregation": False})
        since = f"{worse} aggregates since number {best.number}"
        hub.metadata.add_log(
            model,
            "EARLY_STOP",
            event_id=uuid5(model.uuid, f"early stop after aggregate {scored[-1].number}"),
            global_round=scored[-1].number,
            details={
                "reason": f"{since} are no better in {model.score_metric}: paused",
                "best_aggregate": best.id,
                "best_score": best.validation_score,
            },
        )
    return best


def _all_aggregates(hub: Hub, model: FederatedModel) -> list[ModelAggregate]:
    found: list[ModelAggregate] = []
    while page := hub.metadata.pull_model_aggregates(model, after_number=found[-1].number if found else 0, limit=500):
        found += page
    return found
