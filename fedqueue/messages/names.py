"""Task names, queues and limits: what both ends of the wire must spell alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CONTROL_QUEUE: Final = "fedqueue.control"
UPDATES_QUEUE: Final = "fedqueue.updates"
AGGREGATE_QUEUE: Final = "fedqueue.aggregate"
EVENTS_QUEUE: Final = "fedqueue.events"
QUEUES: Final = (CONTROL_QUEUE, UPDATES_QUEUE, AGGREGATE_QUEUE, EVENTS_QUEUE)

MODELS_CREATE: Final = "fedqueue.models.create"
MODELS_EDIT: Final = "fedqueue.models.edit"
MODELS_PAUSE: Final = "fedqueue.models.pause"
MODELS_RESUME: Final = "fedqueue.models.resume"
MODELS_REGISTER_CLIENT: Final = "fedqueue.models.register_client"
MODELS_PUBLISH: Final = "fedqueue.models.publish"
MODELS_GET: Final = "fedqueue.models.get"
MODELS_LATEST: Final = "fedqueue.models.latest"
MODELS_UPDATE_STATUS: Final = "fedqueue.models.update_status"
MODELS_UPDATE_STATUSES: Final = "fedqueue.models.update_statuses"
MODELS_DELETE: Final = "fedqueue.models.delete"
MODELS_DELETE_FOR_PROJECT: Final = "fedqueue.models.delete_for_project"
MODELS_UPLOAD_URL: Final = "fedqueue.models.upload_url"
MODELS_PROGRESS: Final = "fedqueue.models.progress"
UPDATES_SUBMIT: Final = "fedqueue.updates.submit"
ROUNDS_POLL: Final = "fedqueue.rounds.poll"
ROUNDS_AGGREGATE: Final = "fedqueue.rounds.aggregate"
SCORES_ADD: Final = "fedqueue.scores.add"
TRUSTS_ADD: Final = "fedqueue.trusts.add"
TRUSTS_LIST: Final = "fedqueue.trusts.list"
TRUSTS_SET_SLOT: Final = "fedqueue.trusts.set_slot"
TRUSTS_SET_MODEL: Final = "fedqueue.trusts.set_model"
TRUSTS_SET_CLIENT: Final = "fedqueue.trusts.set_client"
LOGS_LIST: Final = "fedqueue.logs.list"
METRICS_GET: Final = "fedqueue.metrics.get"
EVENTS_INGEST: Final = "fedqueue.events.ingest"
LOGS_ADD: Final = "fedqueue.logs.add"
METRICS_ADD: Final = "fedqueue.metrics.add"
MAINTENANCE_OUTBOX: Final = "fedqueue.maintenance.outbox"
MAINTENANCE_GARBAGE: Final = "fedqueue.maintenance.garbage"
MAINTENANCE_CANARY: Final = "fedqueue.maintenance.canary"

# Every other task waits in CONTROL_QUEUE.
QUEUE_OF: Final[Mapping[str, str]] = {
    UPDATES_SUBMIT: UPDATES_QUEUE,
    ROUNDS_AGGREGATE: AGGREGATE_QUEUE,
    EVENTS_INGEST: EVENTS_QUEUE,
    LOGS_ADD: EVENTS_QUEUE,
    METRICS_ADD: EVENTS_QUEUE,
}

# How RabbitMQ keeps each of the hub's queues. Whoever declares one must say the same, or is refused.
RABBITMQ_QUEUE_ARGUMENTS: Final[Mapping[str, str | int]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000_000,  # none that is ever met: a message over it would be gone
}

# Larger data does not belong on a broker: it goes to the store, and its reference on the wire.
INLINE_DATA_LIMIT: Final = 256 * 1024
