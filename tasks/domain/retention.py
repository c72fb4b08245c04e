"""Retention: how long inputs are kept after they were used. Without them an aggregate can no longer be made again."""

from __future__ import annotations

from connectors.records import FederatedModel, ModelUpdate
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


def _let_go(hub: Hub, model: FederatedModel, up_to: int) -> int:
    dropped = 0
    while old := hub.metadata.pull_model_updates_used_up_to(model, up_to):
        _drop(hub, old)
        dropped += len(old)
    return dropped


def _drop(hub: Hub, updates: list[ModelUpdate]) -> None:
    hub.metadata.transact(lambda _: hub.metadata.register_model_updates_data_dropped(updates))
