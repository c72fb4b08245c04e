"""A round, exactly once (DESIGN 5): claim, combine with no transaction open, post behind the fence.

Messages are only hints that a round may be due. Whatever happens between the two transactions (a crash, a pause
longer than the lease, a second worker), the fence on the model's row lets exactly one claim post.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum

from connectors.errors import ClaimLost, ModelDataError, Unavailable
from connectors.records import (
    AggregateResult,
    FederatedModel,
    ModelAggregate,
    ModelStatus,
    RoundState,
    UpdateStatus,
)
from tasks.aggregation import AggregationError, TooFewUpdates
from tasks.domain.claiming import Begun, NotBegun, begin_round
from tasks.domain.combining import Culprit, RoundFailed, combine_round
from tasks.domain.lifecycle import advance
from tasks.domain.models import finish_model
from tasks.domain.notifications import tell, tell_quarantined
from tasks.domain.own_events import round_aggregated, round_failed, update_quarantined
from tasks.domain.recipes import Cooked, Recipe, to_manifest
from tasks.domain.suspects import CLEARED, rest_ms
from tasks.hub import Hub


class ModelGone(Exception):
    """The round's model was deleted since its claim: nothing of the round may be written, and nothing is its fault."""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a look at a model's round came to."""

    outcome: str
    reason: str = ""
    aggregate: ModelAggregate | None = None
    look_again: bool = False  # something may be due at once: the next round, the next probe


def run_round(hub: Hub, model_id: int) -> RoundOutcome:
    """Post the model's next aggregate if its round is due; say why not otherwise.

    Raises: Unavailable once the updates were given back; what else goes wrong leaves them to the rescue.
    """
    begun = hub.metadata.transact(lambda transaction: begin_round(hub, model_id, transaction))
    if isinstance(begun, NotBegun):
        return RoundOutcome(begun.outcome, begun.reason)
    return finish_round(hub, begun)


def finish_round(hub: Hub, begun: Begun) -> RoundOutcome:
    """What came of a round that was begun, however long ago: only while its claim stands does it change anything.

    Raises: Unavailable once the updates were given back.
    """
    try:
        return _finish(hub, begun)
    except ModelGone:
        return replace(_let_go(hub, begun, "the model was deleted meanwhile"), outcome="deleted")


def _finish(hub: Hub, begun: Begun) -> RoundOutcome:
    try:
        recipe, cooked = combine_round(hub, begun)
        if begun.is_probe:
            return _clear(hub, begun)
        aggregate = hub.metadata.transact(lambda _: _post(hub, begun, recipe, cooked))
    except ClaimLost as lost:
        return RoundOutcome("overtaken", str(lost))
    except Culprit as culprit:
        return _set_aside(hub, begun, culprit)
    except Unavailable as error:
        _give_back(hub, begun, str(error), counted=False)
        raise
    except TooFewUpdates as few:
        # Not a fault but a requirement: the aggregator's own, which it did not tell beforehand. More updates may come.
        return _let_go(hub, begun, str(few))
    except (RoundFailed, AggregationError, ModelDataError) as error:
        _give_back(hub, begun, str(error), counted=True)
        return RoundOutcome("failed", str(error))
    return RoundOutcome("posted", aggregate=aggregate, look_again=_has_more(hub, aggregate))


def _post(hub: Hub, begun: Begun, recipe: Recipe, cooked: Cooked) -> ModelAggregate:
    """The second transaction: aggregate, lineage, manifest, state, updates, feed, status, follow-ups; all or none."""
    metadata, updates = hub.metadata, begun.updates
    model = _lock_there(hub, begun)
    for stored in (cooked.data, cooked.state):
        if stored is not None:
            hub.model_data.hold(stored)
    result = AggregateResult(
        data=cooked.data,
        num_updates=len(updates),
        num_examples=fsum(update.num_examples for update in updates),
        manifest=to_manifest(recipe, cooked),
        state=cooked.state,
    )
    aggregate = metadata.post_new_model_aggregate(begun.model, begun.parent, result, claim=begun.claim)
    metadata.register_model_update_used_in_aggregate(updates, aggregate)
    metadata.register_model_updates_use_in_aggregation_complete(updates, True)
    metadata.close_round(begun.claim, RoundState.POSTED, aggregate_id=aggregate.id)
    metadata.add_logs([round_aggregated(model, aggregate, len(metadata.pull_model_clients(model)))])
    details = {
        "aggregate_id": aggregate.id,
        "number": aggregate.number,
        "digest": aggregate.data.digest,
        "num_updates": aggregate.num_updates,
        "num_examples": aggregate.num_examples,
    }
    tell(hub, model, "aggregate.posted", f"aggregate.posted:{model.uuid}:{aggregate.number}", details)
    if model.max_rounds is not None and aggregate.number >= model.max_rounds:
        finish_model(hub, model)
    return aggregate


def _lock_there(hub: Hub, begun: Begun) -> FederatedModel:
    """The model, locked: it is not deleted before this transaction ends. Raises: ModelGone."""
    model = hub.metadata.lock_model(begun.model)
    if model.deleted:
        raise ModelGone
    return model


# --- what else may become of it -------------------------------------------------------------------


def _clear(hub: Hub, begun: Begun) -> RoundOutcome:
    """The suspects did no harm by themselves: they wait for the round again."""

    def clear(_: object) -> None:
        hub.metadata.release_claim(begun.claim)
        groups = {u.id: CLEARED for u in begun.updates}
        hub.metadata.return_model_updates(begun.updates, status=UpdateStatus.PENDING, suspect_groups=groups)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason="a probe: these updates did no harm")

    hub.metadata.transact(clear)
    return RoundOutcome("probed", look_again=True)


def _let_go(hub: Hub, begun: Begun, reason: str) -> RoundOutcome:
    """The round is not due after all: everything as it was before the claim."""

    def let_go(_: object) -> None:
        hub.metadata.release_claim(begun.claim)
        attempts = {u.id: u.attempts - 1 for u in begun.updates}
        # Suspects that the aggregator does not take by themselves would be probed, and let go, for ever.
        groups = {u.id: CLEARED for u in begun.updates} if begun.is_probe else None
        pending = UpdateStatus.PENDING
        hub.metadata.return_model_updates(begun.updates, status=pending, attempts=attempts, suspect_groups=groups)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason=reason)

    try:
        hub.metadata.transact(let_go)
    except ClaimLost as lost:
        return RoundOutcome("overtaken", str(lost))
    return RoundOutcome("waiting", reason)


def _set_aside(hub: Hub, begun: Begun, culprit: Culprit) -> RoundOutcome:
    """One bad update never stops a round: it goes, the others are free again at once."""
    bad = replace(culprit.update, reason_code=culprit.reason_code, reason=culprit.reason)

    def set_aside(_: object) -> None:
        _lock_there(hub, begun)
        hub.metadata.release_claim(begun.claim)
        others = [u for u in begun.updates if u.id != bad.id]
        # This claim was none of their doing: it does not count against them.
        attempts = {u.id: u.attempts - 1 for u in others}
        hub.metadata.register_model_updates_invalid([bad], culprit.reason_code, culprit.reason)
        hub.metadata.return_model_updates(others, status=UpdateStatus.PENDING, attempts=attempts)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason=f"update {bad.id}: {culprit.reason}")
        hub.metadata.add_logs([update_quarantined(begun.model, bad, culprit.reason_code, culprit.reason)])
        tell_quarantined(hub, begun.model, bad, culprit.reason_code, culprit.reason)

    try:
        hub.metadata.transact(set_aside)
    except ClaimLost as lost:
        return RoundOutcome("overtaken", str(lost))
    return RoundOutcome("set_aside", f"update {bad.id} is INVALID ({bad.reason_code}): {bad.reason}", look_again=True)


def _give_back(hub: Hub, begun: Begun, reason: str, *, counted: bool) -> None:
    """The round can't be done now: its updates rest and are tried again. `counted`: it goes on their record."""

    def give_back(_: object) -> None:
        model = _lock_there(hub, begun)
        hub.metadata.release_claim(begun.claim)
        attempts = {u.id: u.attempts - (0 if counted else 1) for u in begun.updates}
        rests = {u.id: rest_ms(hub, u.attempts) for u in begun.updates}
        hub.metadata.return_model_updates(begun.updates, status=UpdateStatus.FAILED, rest_ms=rests, attempts=attempts)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason=reason)
        hub.metadata.add_logs([round_failed(begun.model, begun.claim.fence, begun.claim.head + 1, reason)])
        if counted and max(u.attempts for u in begun.updates) >= hub.settings.max_attempts:
            advance(hub, model, ModelStatus.ERROR)

    try:
        hub.metadata.transact(give_back)
    except (ClaimLost, Unavailable):
        return  # somebody else has them already, or will take them when the lease is over


def _has_more(hub: Hub, aggregate: ModelAggregate) -> bool:
    model = hub.metadata.pull_federated_model_w_id(aggregate.model_id)
    assert model is not None
    return bool(hub.metadata.pull_model_updates_ready_for_aggregation(model, aggregate))
