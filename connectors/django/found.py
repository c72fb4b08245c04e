"""FMA's rows read as records: by whoever takes a deployment over, and by whoever imports it."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Row, Select, func, select

from connectors.deployment import FoundAggregate, FoundArtifact, FoundModel, FoundScore, FoundUpdate
from connectors.django.media import Media, uri_in
from connectors.django.policy import FOUND, policy_of
from connectors.django.tables import AGGREGATES, ARTIFACTS, MODELS, REGISTRATIONS, SCORES, STATUSES, UPDATES, USERS

_USED = (
    select(func.count())
    .select_from(UPDATES)
    .where(UPDATES.c.applied_aggregate_id == AGGREGATES.c.id)
    .correlate(AGGREGATES)
    .scalar_subquery()
    .label("num_updates")
)

MODELS_FOUND: Select[Any] = FOUND.add_columns(USERS.c.username).join(USERS, USERS.c.id == MODELS.c.developer_id)
REGISTRATIONS_FOUND: Select[Any] = select(REGISTRATIONS.c.federatedmodel_id, REGISTRATIONS.c.client_id)
ARTIFACTS_FOUND: Select[Any] = select(ARTIFACTS, ARTIFACTS.c["values"].label("path"))
AGGREGATES_FOUND: Select[Any] = select(AGGREGATES, _USED)
UPDATES_FOUND: Select[Any] = select(UPDATES)
SCORES_FOUND: Select[Any] = select(SCORES, AGGREGATES.c.federated_model_id).join(
    AGGREGATES, AGGREGATES.c.id == SCORES.c.aggregate_id
)


def to_found_model(row: Row[Any]) -> FoundModel:
    """A model as FMA's row stands."""
    policy = policy_of(row)
    # A hub may take in several deployments, and each has a model 1: the time tells them apart.
    uuid = uuid5(NAMESPACE_URL, f"fma:{row.id}:{row.created_on.isoformat()}")
    # FMA says nothing of a pause where there is no schedule.
    allow_aggregation = policy.pop("allow_aggregation", True)
    return FoundModel(
        id=row.id,
        uuid=uuid,
        developer=row.username,
        created_at=row.created_on,
        allow_aggregation=allow_aggregation,
        **policy,
    )


def to_found_artifact(row: Row[Any], media: Media) -> FoundArtifact:
    """An artifact as FMA's row stands."""
    return FoundArtifact(row.id, row.federated_model_id, row.version, uri_in(media, row.path), row.created_on)


def to_found_aggregate(row: Row[Any], media: Media) -> FoundAggregate:
    """An aggregate as FMA's row stands."""
    return FoundAggregate(
        id=row.id,
        model_id=row.federated_model_id,
        parent_id=row.parent_id,
        uri=uri_in(media, row.result),
        num_updates=row.num_updates,
        validation_score=row.validation_score,
        created_at=row.created_on,
    )


def to_found_update(row: Row[Any], media: Media) -> FoundUpdate:
    """An update as FMA's row stands."""
    return FoundUpdate(
        id=row.id,
        model_id=row.federated_model_id,
        client_uuid=row.client_id,
        uri=uri_in(media, row.data),
        status=STATUSES[row.status],
        base_aggregate_id=row.base_aggregate_id,
        applied_aggregate_id=row.applied_aggregate_id,
        created_at=row.created_on,
    )


def to_found_score(row: Row[Any]) -> FoundScore:
    """A score as FMA's row stands."""
    return FoundScore(row.id, row.federated_model_id, row.aggregate_id, row.client_id, row.validation_results)
