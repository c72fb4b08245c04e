"""A round, exactly once (DESIGN 5): claim, combine with no transaction open, post behind the fence.

Messages are only hints that a round may be due. Whatever happens between the two transactions (a crash, a pause
longer than the lease, a second worker), the fence on the model's row lets exactly one claim post.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any
from uuid import uuid5

from connectors.errors import BlobMissing, ClaimLost, ModelDataError, Unavailable
from connectors.model_data import TensorReader
from connectors.records import (
    AggregateResult,
    BlobRef,
    Claim,
    DataFormat,
    ModelAggregate,
    ModelStatus,
    ModelUpdate,
    ReasonCode,
    RoundState,
    UpdateStatus,
)
from fedqueue.version import __version__
from tasks.aggregation import AggregationError, Report, UpdateStream, UpdateUnusable, combine_streams
from tasks.domain.claiming import Begun, NotBegun, begin_round, lease_ms
from tasks.domain.lifecycle import advance
from tasks.domain.models import finish_model
from tasks.domain.notifications import tell, tell_quarantined
from tasks.domain.suspects import CLEARED, rest_ms
from tasks.hub import Hub


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a look at a model's round came to."""

    outcome: str
    reason: str = ""
    aggregate: ModelAggregate | None = None
    look_again: bool = False  # something may be due at once: the next round, the next probe


class Culprit(Exception):
    """One update that can't take part; the others can go on without it."""

    def __init__(self, update: ModelUpdate, reason_code: ReasonCode, reason: str) -> None:
        super().__init__(f"update {update.id}: {reason}")
        self.update = update
        self.reason_code = reason_code
        self.reason = reason


class RoundFailed(Exception):
    """The round could not be combined, and no single update is known to be at fault."""


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
        blob, report = _combine(hub, begun)
        if begun.is_probe:
            return _clear(hub, begun)
        aggregate = hub.metadata.transact(lambda _: _post(hub, begun, blob, report))
    except ClaimLost as lost:
        return RoundOutcome("overtaken", str(lost))
    except Culprit as culprit:
        return _set_aside(hub, begun, culprit)
    except Unavailable as error:
        _give_back(hub, begun, str(error), counted=False)
        raise
    except (RoundFailed, AggregationError, ModelDataError) as error:
        _give_back(hub, begun, str(error), counted=True)
        return RoundOutcome("failed", str(error))
    return RoundOutcome("posted", aggregate=aggregate, look_again=_has_more(hub, aggregate))


# --- combine --------------------------------------------------------------------------------------


def _combine(hub: Hub, begun: Begun) -> tuple[BlobRef, Report]:
    """The updates' combination in the store, fsynced under its digest; nobody names it yet.

    Raises: Culprit, RoundFailed, ClaimLost, Unavailable, AggregationError, ModelDataError.
    """
    model, updates = begun.model, begun.updates
    keeper = LeaseKeeper(hub, begun.claim, [u.data.size_bytes if u.data else 0 for u in updates])
    with ExitStack() as open_readers:
        sources = []
        for update in updates:
            reader = _open(hub, update, model.data_format)
            open_readers.callback(reader.close)
            sources.append(UpdateStream(reader, num_examples=update.num_examples, label=f"update {update.id}"))
            keeper.keep()
        expected = model.tensors
        assert expected is not None, "an update was accepted, and it set what the model looks like"
        with hub.model_data.writer(expected, model.data_format) as writer:
            try:
                report = combine_streams(
                    model.aggregator,
                    model.aggregator_params,
                    sources,
                    writer,
                    expected=expected,
                    budget_bytes=hub.settings.memory_budget_bytes,
                    on_progress=keeper.note_bytes,
                )
            except UpdateUnusable as error:
                raise Culprit(updates[error.index], ReasonCode(error.reason_code), error.reason) from error
            return writer.commit(), report


def _open(hub: Hub, update: ModelUpdate, data_format: DataFormat) -> TensorReader:
    assert update.data is not None, "a row without data is INVALID, by the schema"
    try:
        return hub.model_data.open(update.data, data_format)
    except BlobMissing as error:
        # It was there when it was submitted: a store that is not mounted must not condemn its updates at once.
        if update.attempts < hub.settings.max_attempts:
            raise RoundFailed(f"update {update.id}: {error}") from error
        raise Culprit(update, error.reason_code, error.reason) from error
    except ModelDataError as error:
        raise Culprit(update, error.reason_code, error.reason) from error


class LeaseKeeper:
    """Renews a claim every third of its lease while the work goes on, and stops the work when the claim is lost."""

    def __init__(
        self, hub: Hub, claim: Claim, sizes: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hub = hub
        self._claim = claim
        self._sizes = sizes
        self._clock = clock
        self._renewed = clock()
        self._bytes = 0

    def note_bytes(self, bytes_done: int) -> None:
        """Take down how far the work has come, and keep the claim. Raises: ClaimLost."""
        self._bytes = bytes_done
        self.keep()

    def keep(self) -> None:
        """Renew the claim if a third of the lease has gone by. Raises: ClaimLost, DatabaseUnavailable."""
        if self._clock() - self._renewed < self._hub.settings.lease_seconds / 3:
            return
        share = min(1.0, self._bytes / max(1, sum(self._sizes)))
        self._hub.metadata.transact(
            lambda _: self._hub.metadata.renew_claim(
                self._claim,
                lease_ms(self._hub),
                updates_done=int(share * len(self._sizes)),
                bytes_done=self._bytes,
            )
        )
        self._renewed = self._clock()


# --- post -----------------------------------------------------------------------------------------


def _post(hub: Hub, begun: Begun, blob: BlobRef, report: Report) -> ModelAggregate:
    """The second transaction: aggregate, lineage, manifest, update states, feed, status, follow-ups; all or nothing."""
    metadata, updates = hub.metadata, begun.updates
    result = AggregateResult(
        data=blob,
        num_updates=len(updates),
        num_examples=report.num_examples,
        manifest=manifest_of(begun, blob, report),
    )
    aggregate = metadata.post_new_model_aggregate(begun.model, begun.parent, result, claim=begun.claim)
    metadata.register_model_update_used_in_aggregate(updates, aggregate)
    metadata.register_model_updates_use_in_aggregation_complete(updates, True)
    metadata.close_round(begun.claim, RoundState.POSTED, aggregate_id=aggregate.id)
    model = metadata.lock_model(begun.model)
    metadata.add_log(
        model,
        "ROUND_AGGREGATED",
        event_id=uuid5(model.uuid, f"aggregate {aggregate.number}"),
        global_round=aggregate.number,
        details={"returned": len(updates), "expected": len(metadata.pull_model_clients(model))},
    )
    details = {
        "aggregate_id": aggregate.id,
        "number": aggregate.number,
        "digest": blob.digest,
        "num_updates": aggregate.num_updates,
        "num_examples": aggregate.num_examples,
    }
    tell(hub, model, "aggregate.posted", f"aggregate.posted:{model.uuid}:{aggregate.number}", details)
    if model.max_rounds is not None and aggregate.number >= model.max_rounds:
        finish_model(hub, model)
    return aggregate


def manifest_of(begun: Begun, blob: BlobRef, report: Report) -> dict[str, Any]:
    """What went into an aggregate, and how: enough to make the same bytes again."""
    inputs = [
        {
            "update_id": update.id,
            "submission_id": str(update.submission_id),
            "client_id": str(update.client_uuid),
            "digest": update.data.digest if update.data else None,
            "num_examples": update.num_examples,
            "base_aggregate": update.base_aggregate_id,
            "weight": weight,
        }
        for update, weight in zip(begun.updates, report.weights, strict=True)
    ]
    return {
        "v": 1,
        "number": begun.claim.head + 1,
        "parent": None if begun.parent is None else {"id": begun.parent.id, "digest": begun.parent.data.digest},
        "aggregator": report.aggregator,
        "params": dict(report.params),
        "data_format": str(begun.model.data_format),
        "digest": blob.digest,
        "inputs": inputs,
        "versions": {"fedqueue": __version__, "numpy": version("numpy")},
    }


# --- what else may become of it -------------------------------------------------------------------


def _clear(hub: Hub, begun: Begun) -> RoundOutcome:
    """The suspects did no harm by themselves: they wait for the round again."""

    def clear(_: object) -> None:
        groups = {u.id: CLEARED for u in begun.updates}
        # First: who was overtaken has nothing to return any more.
        hub.metadata.release_claim(begun.claim)
        hub.metadata.return_model_updates(begun.updates, status=UpdateStatus.PENDING, suspect_groups=groups)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason="a probe: these updates did no harm")

    hub.metadata.transact(clear)
    return RoundOutcome("probed", look_again=True)


def _set_aside(hub: Hub, begun: Begun, culprit: Culprit) -> RoundOutcome:
    """One bad update never stops a round: it goes, the others are free again at once."""
    bad = replace(culprit.update, reason_code=culprit.reason_code, reason=culprit.reason)

    def set_aside(_: object) -> None:
        others = [u for u in begun.updates if u.id != bad.id]
        # This claim was none of their doing: it does not count against them.
        attempts = {u.id: u.attempts - 1 for u in others}
        hub.metadata.lock_model(begun.model)
        hub.metadata.release_claim(begun.claim)
        hub.metadata.register_model_updates_invalid([bad], culprit.reason_code, culprit.reason)
        hub.metadata.return_model_updates(others, status=UpdateStatus.PENDING, attempts=attempts)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason=f"update {bad.id}: {culprit.reason}")
        tell_quarantined(hub, begun.model, bad)

    try:
        hub.metadata.transact(set_aside)
    except ClaimLost as lost:
        return RoundOutcome("overtaken", str(lost))
    return RoundOutcome("set_aside", f"update {bad.id} is INVALID ({bad.reason_code}): {bad.reason}", look_again=True)


def _give_back(hub: Hub, begun: Begun, reason: str, *, counted: bool) -> None:
    """The round can't be done now: its updates rest and are tried again. `counted`: it goes on their record."""

    def give_back(_: object) -> None:
        attempts = {u.id: u.attempts - (0 if counted else 1) for u in begun.updates}
        rests = {u.id: rest_ms(hub, u.attempts) for u in begun.updates}
        hub.metadata.lock_model(begun.model)
        hub.metadata.release_claim(begun.claim)
        hub.metadata.return_model_updates(begun.updates, status=UpdateStatus.FAILED, rest_ms=rests, attempts=attempts)
        hub.metadata.close_round(begun.claim, RoundState.RELEASED, reason=reason)
        hub.metadata.add_log(
            begun.model,
            "ROUND_FAILED",
            event_id=uuid5(begun.model.uuid, f"round failed {begun.claim.fence}"),
            success=False,
            global_round=begun.claim.head + 1,
            details={"reason": reason},
        )
        if counted and max(u.attempts for u in begun.updates) >= hub.settings.max_attempts:
            advance(hub.metadata, hub.metadata.lock_model(begun.model), ModelStatus.ERROR)

    try:
        hub.metadata.transact(give_back)
    except (ClaimLost, Unavailable):
        return  # somebody else has them already, or will take them when the lease is over


def _has_more(hub: Hub, aggregate: ModelAggregate) -> bool:
    model = hub.metadata.pull_federated_model_w_id(aggregate.model_id)
    assert model is not None
    return bool(hub.metadata.pull_model_updates_ready_for_aggregation(model, aggregate))
