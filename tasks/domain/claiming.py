"""A round's first transaction (DESIGN 5.2): claim the model, take back what a dead worker left, judge, register."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from connectors.errors import ConnectorError
from connectors.metadata import BaseMetadataConnector, Transaction
from connectors.records import (
    CLAIMABLE_STATUSES,
    Claim,
    Client,
    FederatedModel,
    ModelAggregate,
    ModelStatus,
    ModelUpdate,
    NewLog,
    ReasonCode,
    UpdateStatus,
    is_eligible,
)
from tasks.aggregation import AggregationError, check_params, find_aggregator
from tasks.domain.buffers import buffer_size_of
from tasks.domain.due import fewest_for
from tasks.domain.errors import InvalidPolicy
from tasks.domain.lifecycle import advance
from tasks.domain.notifications import tell_quarantined
from tasks.domain.own_events import round_started, rounds_rescued, update_quarantined
from tasks.domain.requirements import Facts, check_requirement, judge
from tasks.domain.submission import too_stale
from tasks.domain.suspects import give_back_crashed, next_suspects
from tasks.hub import Hub


@dataclass(frozen=True, slots=True)
class Begun:
    """A round under way: what it may use, and by what right."""

    claim: Claim
    model: FederatedModel
    parent: ModelAggregate | None
    updates: tuple[ModelUpdate, ...]
    is_probe: bool  # only tries whether these suspects can be combined; posts nothing
    # Updates that are no participants but models the aggregator takes beside them: the parameter, by update id.
    references: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotBegun:
    """Why no round was begun: claimed, deleted, paused, over, misconfigured, idle or waiting."""

    outcome: str
    reason: str = ""


_UNDER_WAY: Final = NotBegun("claimed", "another worker has a round of this model under way")


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a round is made of, whoever runs it; the fields are those of Begun."""

    updates: tuple[ModelUpdate, ...]
    is_probe: bool
    references: Mapping[int, str] = field(default_factory=dict)


def lease_ms(hub: Hub) -> int:
    """The lease in the connectors' unit."""
    return max(1, round(hub.settings.lease_seconds * 1000))


def begin_round(hub: Hub, model_id: int, transaction: Transaction) -> Begun | NotBegun:
    """Claim the model and register its round's updates, if everything that a round needs is there.

    To be called in a transaction, which it rolls back when there is nothing to keep: asking costs no write.
    """
    metadata = hub.metadata
    found = metadata.pull_federated_model_w_id(model_id)
    if found is None:
        return NotBegun("unknown", f"there is no model {model_id}")
    claim = metadata.claim_model(found, lease_ms(hub))
    if claim is None:
        if found.deleted:
            return NotBegun("deleted")
        return _UNDER_WAY
    model = metadata.lock_model(found)
    dead = metadata.pull_model_updates_of_dead_claims(claim)
    told = rounds_rescued(model, dead)
    if dead:
        metadata.close_dead_rounds(claim)
        if model.deleted:
            _put_back(metadata, dead)
        else:
            model = give_back_crashed(hub, model, claim, dead)
    parent = metadata.pull_latest_model_aggregate(model)
    # Read once, under the lock: it stands until this transaction ends.
    pending = metadata.pull_model_updates_pending_aggregation(model)
    near, stale = _set_stale_aside(hub, model, pending)
    told += stale
    # The claim has just been given its lease: that tells the database's time, by which updates become ready.
    choice = _choose(metadata, model, near, claim.lease_until - lease_ms(hub))
    if isinstance(choice, NotBegun):
        if told:
            metadata.add_logs(told)
            metadata.release_claim(claim)
        else:
            transaction.set_rollback()
        return choice
    begun = Begun(claim, model, parent, choice.updates, choice.is_probe, choice.references)
    return _register(hub, begun, near, told)


def why_not_begun(metadata: BaseMetadataConnector, model: FederatedModel) -> NotBegun | None:
    """Why no round of the model would begin now; None if one is due.

    For people, and for who waits: it only reads, so that the answer may be another by the time it is there. Beside what
    `begin_round` says: resting, if updates rest after a fault, and what there is without them makes no round.
    """
    now = time.time_ns() // 1_000_000  # by this machine's clock: reading does not tell the database's
    if model.lease_until is not None and model.lease_until > now:
        return _UNDER_WAY
    pending = metadata.pull_model_updates_pending_aggregation(model)
    near = [u for u in pending if is_eligible(u.base_number, model.head, model.furthest_base_agg)]
    try:
        choice = _choose(metadata, model, near, now)
    except ConnectorError:
        raise
    except Exception as error:  # noqa: BLE001  # a plugin's, or a policy's that nobody has checked: a round would fail by it
        return NotBegun("misconfigured", f"{type(error).__name__}: {error}")
    if isinstance(choice, _Choice):
        return None
    resting = sum(update.not_before > now for update in near)
    if resting and choice.outcome in ("idle", "waiting"):
        return NotBegun("resting", f"{resting} updates rest after a fault")
    return choice


def _choose(
    metadata: BaseMetadataConnector, model: FederatedModel, pending: Sequence[ModelUpdate], now: int
) -> _Choice | NotBegun:
    """What a round would be made of that begins `now`, in milliseconds since 1970."""
    if model.deleted:
        return NotBegun("deleted")
    if not model.allow_aggregation:
        return NotBegun("paused", "aggregation is paused")
    if model.status not in CLAIMABLE_STATUSES:
        return NotBegun("over", f"the model is {model.status}")
    if metadata.deployment is not None and (fault := _fault_of(model)) is not None:
        return NotBegun("misconfigured", fault)
    ready = [update for update in pending if update.not_before <= now]
    if not ready:
        return NotBegun("idle", "no update is ready")
    suspects = next_suspects(pending)
    if suspects:
        return _Choice(tuple(suspects), is_probe=True)
    counted = ready if model.allow_repeats else _newest_of_each_client(ready)
    name, arguments = metadata.pull_model_requirements(model)
    buffer_size = buffer_size_of(model)
    if buffer_size is not None:
        name, arguments, counted = "require_x_updates", {"x": buffer_size}, counted[:buffer_size]
    clients = metadata.pull_model_clients(model)
    registered = frozenset(client.id for client in clients)
    verdict = judge(name, arguments, Facts(counted, registered, now, model.head))
    if not verdict.is_met:
        return NotBegun("waiting", f"{name or 'any update'}: {verdict}")
    references = _find_references(model, counted, clients)
    if isinstance(references, NotBegun):
        return references
    # Asked before the claim stands: a round that its aggregator would refuse costs neither a fence nor an attempt.
    there, fewest = len(counted) - len(references), fewest_for(model)
    if there < fewest:
        reason = f"{model.aggregator}: {there} of {fewest} updates, the fewest it takes with its parameters"
        return NotBegun("waiting", reason)
    return _Choice(tuple(counted), is_probe=False, references=references)


def _fault_of(model: FederatedModel) -> str | None:
    """What makes rounds of the model impossible, if it was made beside the hub, where nobody has checked its policy."""
    try:
        check_params(model.aggregator, model.aggregator_params)
        check_requirement(model.requirement, model.requirement_args)
    except AggregationError as error:
        return f"aggregator: {error}"
    except InvalidPolicy as refused:
        return f"{refused.field}: {refused.reason}"
    return None


def _find_references(
    model: FederatedModel, counted: Sequence[ModelUpdate], clients: Sequence[Client]
) -> dict[int, str] | NotBegun:
    """The updates of the clients that the aggregator's parameters name (FLTrust's root), or whom it waits for."""
    references: dict[int, str] = {}
    for parameter in find_aggregator(model.aggregator).references:
        name = model.aggregator_params.get(parameter)
        named = {client.id for client in clients if name in (client.name, str(client.uuid))}
        found = [update for update in counted if update.client_id in named]
        if not found:
            return NotBegun("waiting", f"{model.aggregator}: no update of {parameter} {name!r} is ready")
        references[found[-1].id] = parameter
    return references


def _register(hub: Hub, begun: Begun, pending: Sequence[ModelUpdate], told: list[NewLog]) -> Begun:
    """The round with its updates RUNNING; what `told` holds, and what comes of it here, is written in one statement."""
    metadata = hub.metadata
    if not begun.is_probe and not begun.model.allow_repeats:
        told = told + _set_superseded_aside(hub, begun, pending)
    taken = metadata.register_model_updates_for_aggregation(begun.updates, claim=begun.claim)
    metadata.add_round(begun.claim, len(taken), hub.worker)
    model = advance(hub, begun.model, ModelStatus.RUNNING)
    if not begun.is_probe:
        told = [*told, round_started(model, begun.claim, len(taken))]
    if told:
        metadata.add_logs(told)
    return replace(begun, model=model, updates=tuple(sorted(taken, key=lambda u: u.id)))


def _put_back(metadata: BaseMetadataConnector, dead: Sequence[ModelUpdate]) -> None:
    """The updates of a deleted model's dead round as they were before it: nobody will ask whose fault it was."""
    attempts = {update.id: update.attempts - 1 for update in dead}
    metadata.return_model_updates(dead, status=UpdateStatus.PENDING, attempts=attempts)


def _newest_of_each_client(ready: Sequence[ModelUpdate]) -> list[ModelUpdate]:
    """At most one update a client counts in a round: the newest (DESIGN 7)."""
    newest = {update.client_id: update for update in sorted(ready, key=lambda u: u.id)}
    return sorted(newest.values(), key=lambda u: u.id)


def _set_superseded_aside(hub: Hub, begun: Begun, pending: Sequence[ModelUpdate]) -> list[NewLog]:
    """Older updates of the same client and base than the one that counts will never count; what is to be told of it."""
    told = []
    counted = {(u.client_id, u.base_aggregate_id): u for u in begun.updates}
    for update in pending:
        newer = counted.get((update.client_id, update.base_aggregate_id))
        if newer is not None and update.id < newer.id:
            reason = f"superseded by update {newer.id} of the same client, from the same base"
            hub.metadata.register_model_updates_invalid([update], ReasonCode.DUPLICATE, reason)
            tell_quarantined(hub, begun.model, update, ReasonCode.DUPLICATE, reason)
            told.append(update_quarantined(begun.model, update, ReasonCode.DUPLICATE, reason))
    return told


def _set_stale_aside(
    hub: Hub, model: FederatedModel, pending: Sequence[ModelUpdate]
) -> tuple[list[ModelUpdate], list[NewLog]]:
    """The pending updates without those that were near enough when they came, and are not any more; what of these is
    to be told."""
    near, told = [], []
    for update in pending:
        if is_eligible(update.base_number, model.head, model.furthest_base_agg):
            near.append(update)
            continue
        reason = too_stale(update.base_aggregate_id, update.base_number, model)
        hub.metadata.register_model_updates_invalid([update], ReasonCode.STALE, reason)
        tell_quarantined(hub, model, update, ReasonCode.STALE, reason)
        told.append(update_quarantined(model, update, ReasonCode.STALE, reason))
    return near, told
