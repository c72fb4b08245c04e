"""The hub at a glance, gathered from the database, the broker and the workers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import Celery

from config.celery import AGGREGATE_QUEUE, CONTROL_QUEUE
from config.places import endpoint_in
from config.secrets import masked
from config.settings import Settings
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, RoundState
from worker.bootstrap import HubCelery, build_metadata
from worker.health import broker_trouble, check_workers, embedded_worker_names

_PAGE = 500
_NEWEST = 5


def look_at(settings: Settings) -> dict[str, Any]:
    """What `status` shows, as JSON has it. A broker that is away is said, not raised.

    Raises: DatabaseUnavailable, SchemaOutdated.
    """
    metadata = build_metadata(settings)
    try:
        metadata.check()
        seen = _in_database(metadata)
    finally:
        metadata.close()
    app = HubCelery(settings)
    trouble = broker_trouble(app)
    queues = {} if trouble else _queue_lengths(app)
    names = [] if trouble else _names_of_workers(app, settings)
    reports = check_workers(app, names, 2.0) if names else []
    return seen | {
        "broker": trouble or f"the broker {masked(settings.broker_url)} answers",
        "queues": queues,
        "workers": [{"worker": r.worker, "health": r.health.value, "detail": r.detail} for r in reports],
    }


def _in_database(metadata: BaseMetadataConnector) -> dict[str, Any]:
    counts: dict[str, int] = {}
    claims: list[dict[str, Any]] = []
    newest: list[dict[str, Any]] = []
    models = 0
    for model in _models(metadata):
        models += 1
        for state, count in metadata.count_model_updates(model).items():
            counts[state.value] = counts.get(state.value, 0) + count
        claims += _live_claims(metadata, model)
        aggregate = metadata.pull_latest_model_aggregate(model)
        if aggregate is not None:
            newest.append(
                {
                    "model_id": str(model.uuid),
                    "number": aggregate.number,
                    "num_updates": aggregate.num_updates,
                    "num_examples": aggregate.num_examples,
                    "created_at": aggregate.created_at,
                    "id": aggregate.id,
                }
            )
    newest.sort(key=lambda aggregate: aggregate["id"], reverse=True)
    return {
        "models": models,
        "updates": counts,
        "claims": claims,
        "newest": newest[:_NEWEST],
        "dead_letters": _count_dead_letters(metadata),
    }


def _models(metadata: BaseMetadataConnector) -> list[FederatedModel]:
    models: list[FederatedModel] = []
    while page := metadata.pull_federated_models(after_id=models[-1].id if models else 0, limit=_PAGE):
        models += page
    return models


def _live_claims(metadata: BaseMetadataConnector, model: FederatedModel) -> list[dict[str, Any]]:
    return [
        {
            "model_id": str(model.uuid),
            "fence": each.fence,
            "worker": each.worker,
            "updates_done": each.updates_done,
            "num_updates": each.num_updates,
        }
        for each in metadata.pull_rounds(model, limit=1)
        if each.state is RoundState.CLAIMED
    ]


def _count_dead_letters(metadata: BaseMetadataConnector) -> int:
    count = after = 0
    while page := metadata.pull_dead_letters(after_id=after, limit=_PAGE):
        count += len(page)
        after = page[-1].id
    return count


def _queue_lengths(app: Celery) -> dict[str, int]:
    """Messages waiting in each queue."""
    lengths = dict.fromkeys((CONTROL_QUEUE, AGGREGATE_QUEUE), 0)
    with app.connection_for_read() as connection:
        for name in lengths:
            # A queue that no worker has declared yet is no error: nothing is in it.
            with suppress(*connection.channel_errors), connection.channel() as channel:
                lengths[name] = channel.queue_declare(queue=name, passive=True).message_count
    return lengths


def _names_of_workers(app: Celery, settings: Settings) -> list[str]:
    """Who says to be there, and who ought to be."""
    names = {name for answer in app.control.ping(timeout=0.5) for name in answer}
    if endpoint_in(settings.home).exists():
        names |= set(embedded_worker_names(settings))
    return sorted(names)
