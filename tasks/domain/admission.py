"""Whether there is room for one more update: limits on a model's senders, each by itself and all together.

They are checked twice: before the data is read, which is what a flood would cost, and under the model's lock, where
two workers can't both find the last place free. What waits is counted from its rows. A rate is a bucket that holds a
minute's worth and fills up steadily (the virtual scheduling algorithm of ITU-T I.371): a minute's submissions all at
once are no fault, and in the long run no more than that a minute come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from connectors.records import Client, FederatedModel, SubmissionLoad
from tasks.domain.errors import LimitExceeded
from tasks.hub import Hub

_MINUTE = 60_000_000  # microseconds

_RULES = ("submissions_per_minute", "open_updates", "open_bytes")


def check_room(hub: Hub, model: FederatedModel, client: Client | None) -> None:
    """Return if there is room for an update of the client's, as far as that can be told without its data.

    `client` is None for whoever is not registered with the model: to the limits they are all one client.
    Raises: LimitExceeded.
    """
    if _are_any(hub):
        _find_room(hub, model, client, 1)


def take_room(hub: Hub, model: FederatedModel, client: Client | None, size: int) -> int | None:
    """Count an update of that size as submitted: how many the model has open with it, None where nothing is limited.

    `model` must be locked. Raises: LimitExceeded.
    """
    if not _are_any(hub):
        return None
    load = _find_room(hub, model, client, size)
    settings = hub.settings
    hub.metadata.register_submission(
        model,
        client,
        model_spent_until=_spend(load.model_spent_until, load.now, settings.model_submissions_per_minute),
        sender_spent_until=_spend(load.sender_spent_until, load.now, settings.client_submissions_per_minute),
    )
    return load.model_updates + 1


def _are_any(hub: Hub) -> bool:
    return any(_limit(hub, whose, rule) is not None for whose in ("client", "model") for rule in _RULES)


def _limit(hub: Hub, whose: str, rule: str) -> int | None:
    limit: int | None = getattr(hub.settings, f"{whose}_{rule}")
    return limit


def _find_room(hub: Hub, model: FederatedModel, client: Client | None, size: int) -> SubmissionLoad:
    load = hub.metadata.pull_submission_load(model, client)
    sender = f"clients not registered with model {model.uuid}" if client is None else f"client {client.uuid}"
    for whose, name, spent_until, updates, held in (
        ("client", sender, load.sender_spent_until, load.sender_updates, load.sender_bytes),
        ("model", f"model {model.uuid}", load.model_spent_until, load.model_updates, load.model_bytes),
    ):
        for rule, limit, found, retry_after in _would_make(
            hub, whose, max(spent_until - load.now, 0), updates + 1, held + size
        ):
            if found > limit:
                raise LimitExceeded(f"{whose}_{rule}", limit, found, retry_after, field=f"{whose}_id", whose=name)
    return load


def _would_make(hub: Hub, whose: str, spent: int, updates: int, held: int) -> Iterator[tuple[str, int, int, float]]:
    """(rule, its limit, what this update would make of it, seconds until it is worth while to try again)"""
    rate, most_updates, most_bytes = (_limit(hub, whose, rule) for rule in _RULES)
    if rate is not None:
        ahead = spent + _MINUTE // rate
        yield _RULES[0], rate, ceil(ahead * rate / _MINUTE), (ahead - _MINUTE) / 1e6
    # When a round makes room nobody can tell: a sweep that looks for one is the least that must have happened.
    rest = hub.settings.sweep_seconds
    if most_updates is not None:
        yield _RULES[1], most_updates, updates, rest
    if most_bytes is not None:
        yield _RULES[2], most_bytes, held, rest


def _spend(spent_until: int, now: int, rate: int | None) -> int | None:
    return None if rate is None else max(spent_until, now) + _MINUTE // rate
