"""The hub at a glance, gathered from the database, the broker and the workers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import Celery

from config.places import endpoint_in
from config.secrets import masked
from config.settings import Settings
from connectors.metadata import BaseMetadataConnector
from fedqueue.messages.names import QUEUES
from worker.bootstrap import HubCelery, build_metadata
from worker.health import broker_trouble, check_workers, embedded_worker_names


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
    overview = metadata.pull_overview()
    return {
        "models": overview.models,
        "updates": {str(status): count for status, count in overview.updates.items()},
        "claims": [
            {
                "model_id": str(uuid),
                "fence": each.fence,
                "worker": each.worker,
                "updates_done": each.updates_done,
                "num_updates": each.num_updates,
            }
            for uuid, each in overview.claims
        ],
        "newest": [
            {
                "model_id": str(uuid),
                "number": aggregate.number,
                "num_updates": aggregate.num_updates,
                "num_examples": aggregate.num_examples,
                "created_at": aggregate.created_at,
                "id": aggregate.id,
            }
            for uuid, aggregate in overview.newest
        ],
        "dead_letters": overview.dead_letters,
    }


def _queue_lengths(app: Celery) -> dict[str, int]:
    """Messages waiting in each queue."""
    lengths = dict.fromkeys(QUEUES, 0)
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
