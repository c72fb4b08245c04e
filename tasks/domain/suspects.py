"""Poison: an update that takes its worker down is found by halving the batch, and the others go on (DESIGN 5.5).

A batch that crashed `max_attempts` times is split into two groups of suspects. Each group is tried alone, in a probe
that combines and posts nothing. A group that crashes is split again; a group of one that crashes is POISON; one that
does not is cleared, and waits for the round as before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby

from connectors.records import Claim, FederatedModel, ModelStatus, ModelUpdate, ReasonCode, UpdateStatus
from tasks.domain.lifecycle import advance
from tasks.domain.notifications import tell_quarantined
from tasks.domain.own_events import round_failed, update_quarantined
from tasks.hub import Hub

CLEARED = 0  # the group of those that were tried and did no harm


def next_suspects(pending: Sequence[ModelUpdate]) -> tuple[ModelUpdate, ...]:
    """The group to be probed next; empty if nobody is under suspicion."""
    groups = sorted({u.suspect_group for u in pending if u.suspect_group})
    return tuple(u for u in pending if groups and u.suspect_group == groups[0])


def give_back_crashed(hub: Hub, model: FederatedModel, claim: Claim, crashed: Sequence[ModelUpdate]) -> FederatedModel:
    """Take back updates that a crashed claim left RUNNING: to be tried again, under suspicion, or set aside.

    The model as it stands then: in ERROR if a batch of cleared updates goes on crashing, for it is none of theirs.
    """
    for fence, batch in groupby(sorted(crashed, key=lambda u: (u.claim or 0, u.id)), key=lambda u: u.claim):
        model = _give_back(hub, model, claim, fence or 0, list(batch))
    return model


def _give_back(hub: Hub, model: FederatedModel, claim: Claim, fence: int, batch: list[ModelUpdate]) -> FederatedModel:
    was_probe = all(u.suspect_group for u in batch)
    # The most tried one decides: newcomers to the batch must not put the search off for ever.
    attempts = max(u.attempts for u in batch)
    if not was_probe and attempts < hub.settings.max_attempts:
        # The first time they go on at once: they have rested for as long as their dead worker's lease ran.
        rests = {u.id: rest_ms(hub, u.attempts - 1) for u in batch}
        hub.metadata.return_model_updates(batch, status=UpdateStatus.FAILED, rest_ms=rests)
        return model
    suspects = [u for u in batch if u.suspect_group != CLEARED]
    if not suspects:
        hub.metadata.return_model_updates(batch, status=UpdateStatus.FAILED)
        reason = f"its round crashes {attempts} times although each update alone does not"
        hub.metadata.add_logs([round_failed(model, fence, model.head + 1, reason)])
        return advance(hub, model, ModelStatus.ERROR)
    if len(suspects) == 1:
        _set_poison_aside(hub, model, suspects[0])
        others = [u for u in batch if u is not suspects[0]]
        hub.metadata.return_model_updates(others, status=UpdateStatus.FAILED)
        return model
    half = len(suspects) // 2
    # Twice the fence and one more: never used before, because every claim raises the fence.
    groups: dict[int, int | None] = {u.id: 2 * claim.fence for u in suspects[:half]}
    groups |= {u.id: 2 * claim.fence + 1 for u in suspects[half:]}
    hub.metadata.return_model_updates(batch, status=UpdateStatus.FAILED, suspect_groups=groups)
    return model


def _set_poison_aside(hub: Hub, model: FederatedModel, update: ModelUpdate) -> None:
    reason = f"every round with it took its worker down ({update.attempts} times); the others without it did not"
    hub.metadata.register_model_updates_invalid([update], ReasonCode.POISON, reason)
    hub.metadata.add_logs([update_quarantined(model, update, ReasonCode.POISON, reason)])
    tell_quarantined(hub, model, update, ReasonCode.POISON, reason)


def rest_ms(hub: Hub, failures: int) -> int:
    """Anything up to a doubling bound ("full jitter"), so that many retries spread out; 0 without a failure."""
    if failures < 1:
        return 0
    bound = min(hub.settings.retry_cap_seconds, hub.settings.retry_base_seconds * 2 ** (failures - 1))
    return round(random.uniform(0, bound) * 1000)  # noqa: S311  # jitter, not a secret
