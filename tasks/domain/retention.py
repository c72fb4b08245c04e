"""Retention: how long inputs are kept after they were used, and records after they are over.

Without its inputs an aggregate can no longer be made again; a dead letter that is gone can't be sent again. Models,
updates, aggregates, artifacts and audit are never deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from connectors.records import FederatedModel, ModelUpdate, Retained
from tasks.hub import Hub


def let_old_inputs_go(hub: Hub) -> int:
    """Let the data of updates go whose aggregates are older than the setting keeps; how many updates.

    The rows stay, digests included; garbage collection takes the bytes.
    """
    kept = hub.settings.retain_inputs
    if kept is None:
        return 0
    dropped, after_id = 0, 0
    while page := hub.metadata.pull_federated_models(after_id=after_id, deleted=True):
        after_id = page[-1].id
        dropped += sum(_let_go(hub, model, model.head - kept) for model in page if model.head > kept)
    return dropped


def let_old_records_go(hub: Hub) -> int:
    """Delete the records that are older than the settings keep them, in small transactions; how many."""
    settings = hub.settings
    deleted = 0
    for days, kinds in (
        (settings.retain_sent_days, (Retained.SENT,)),
        (settings.retain_dead_letters_days, (Retained.DEAD_LETTERS,)),
        (settings.retain_rounds_days, (Retained.ROUNDS,)),
        (settings.retain_feed_days, (Retained.LOGS, Retained.METRICS)),
    ):
        if days is None:
            continue
        before = datetime.now(UTC) - timedelta(days=days)
        for kind in kinds:
            while some := _delete(hub, kind, before):
                deleted += some
    return deleted


def _delete(hub: Hub, kind: Retained, before: datetime) -> int:
    return hub.metadata.transact(lambda _: hub.metadata.delete_old_records(kind, before))


def _let_go(hub: Hub, model: FederatedModel, up_to: int) -> int:
    dropped = 0
    while old := hub.metadata.pull_model_updates_used_up_to(model, up_to):
        _drop(hub, old)
        dropped += len(old)
    return dropped


def _drop(hub: Hub, updates: list[ModelUpdate]) -> None:
    hub.metadata.transact(lambda _: hub.metadata.register_model_updates_data_dropped(updates))
