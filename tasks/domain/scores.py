"""Scores: what clients measured of an aggregate."""

from __future__ import annotations

from jsonschema import Draft202012Validator

from connectors.records import ClientAggregateScore
from fedqueue.messages import AddScore
from tasks.domain.errors import InvalidScore, UnknownAggregate, UnknownClient
from tasks.domain.models import find_model
from tasks.hub import Hub


def add_score(hub: Hub, message: AddScore) -> ClientAggregateScore:
    """The client's one score of the aggregate; a newer one replaces it.

    Raises: UnknownModel, UnknownAggregate, UnknownClient, InvalidScore.
    """

    def add(_: object) -> ClientAggregateScore:
        model = hub.metadata.lock_model(find_model(hub, message.model_id))
        aggregate = hub.metadata.pull_model_aggregate(message.aggregate_id)
        if aggregate is None or aggregate.model_id != model.id:
            raise UnknownAggregate(message.aggregate_id, message.model_id, "aggregate_id")
        client = hub.metadata.pull_client(message.client_id, model)
        if client is None:
            raise UnknownClient(message.client_id, message.model_id)
        if model.client_agg_results_schema is not None:
            for error in Draft202012Validator(model.client_agg_results_schema).iter_errors(message.validation_results):
                raise InvalidScore(f"{error.json_path}: {error.message[:500]}")
        return hub.metadata.post_client_aggregate_score(aggregate, client, message.validation_results)

    return hub.metadata.transact(add)
