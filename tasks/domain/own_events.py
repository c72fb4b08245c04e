"""The hub's own rounds as events of a feed: a model that it aggregates reads like one that an FL server drives.

Each fact has one id, made of what makes it one (the submission, the fence, the aggregate's number), and is written in
the transaction that makes it true: told exactly as often as it happened, whatever is killed or sent again.

`global_round` is the number of the aggregate that the round posts, or was to post.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final
from uuid import UUID, uuid5

from connectors.records import (
    Claim,
    Client,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    NewLog,
    ReasonCode,
)
from tasks.domain.rendering import COUNTED, PARTICIPANTS

# The rest stands with the update or the round itself: details stay within the 8 KiB that they may take from outside.
_LONGEST_REASON: Final = 2000


def sender_name(client_uuid: UUID) -> str:
    """What a feed calls one of the hub's own clients: never its name, which two clients may share."""
    return str(client_uuid)


def result_received(model: FederatedModel, client: Client, update: ModelUpdate) -> NewLog:
    """An update has come in that may count."""
    details: dict[str, object] = {"update_id": update.id}
    if update.data is not None:
        details["size_bytes"] = update.data.size_bytes
    return NewLog(
        model_id=model.id,
        run_id=model.run_id,
        event_id=uuid5(model.uuid, f"update {update.submission_id}"),
        event_type="CLIENT_RESULT_RECEIVED",
        trust_id=client.trust_id,
        fl_client_name=sender_name(client.uuid),
        global_round=model.head + 1,
        details=details,
    )


def round_started(model: FederatedModel, claim: Claim, num_updates: int) -> NewLog:
    """A round was claimed with so many updates."""
    details = {"num_updates": num_updates}
    if model.max_rounds is not None:
        details["total_rounds"] = model.max_rounds
    return NewLog(
        model_id=model.id,
        run_id=model.run_id,
        event_id=uuid5(model.uuid, f"round started {claim.fence}"),
        event_type="ROUND_STARTED",
        global_round=claim.head + 1,
        details=details,
    )


def round_aggregated(model: FederatedModel, aggregate: ModelAggregate, expected: int) -> NewLog:
    """A round was posted; `expected`: how many clients might have taken part."""
    return NewLog(
        model_id=model.id,
        run_id=model.run_id,
        event_id=uuid5(model.uuid, f"aggregate {aggregate.number}"),
        event_type="ROUND_AGGREGATED",
        global_round=aggregate.number,
        details={"returned": aggregate.num_updates, "expected": expected, COUNTED: PARTICIPANTS},
    )


def round_failed(model: FederatedModel, fence: int, number: int, reason: str) -> NewLog:
    """The round that was claimed under `fence` can't be posted for now."""
    return NewLog(
        model_id=model.id,
        run_id=model.run_id,
        event_id=uuid5(model.uuid, f"round failed {fence}"),
        event_type="ROUND_FAILED",
        success=False,
        global_round=number,
        details={"reason": reason[:_LONGEST_REASON]},
    )


def rounds_rescued(model: FederatedModel, dead: Sequence[ModelUpdate]) -> list[NewLog]:
    """The rounds of workers that fell silent, by the updates they left behind."""
    rescued = []
    for fence, updates in groupby(sorted(dead, key=lambda u: u.claim or 0), key=lambda u: u.claim or 0):
        entry = NewLog(
            model_id=model.id,
            run_id=model.run_id,
            event_id=uuid5(model.uuid, f"round rescued {fence}"),
            event_type="ROUND_RESCUED",
            success=False,
            global_round=model.head + 1,
            details={"fence": fence, "num_updates": len(list(updates))},
        )
        rescued.append(entry)
    return rescued


def update_quarantined(
    model: FederatedModel, update: ModelUpdate, reason_code: ReasonCode, reason: str, *, trust_id: int | None = None
) -> NewLog:
    """An update was set aside as INVALID."""
    return NewLog(
        model_id=model.id,
        run_id=model.run_id,
        # With the fence: an operator may put it back, and a later round may set it aside again.
        event_id=uuid5(model.uuid, f"quarantined {update.submission_id} under {model.fence}"),
        event_type="UPDATE_QUARANTINED",
        success=False,
        trust_id=trust_id,
        fl_client_name=sender_name(update.client_uuid),
        global_round=model.head + 1,
        details={"update_id": update.id, "reason_code": str(reason_code), "reason": reason[:_LONGEST_REASON]},
    )
