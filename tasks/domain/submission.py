"""Submissions: an update is checked before it can count, and set aside with a reason if it may not (DESIGN 6).

A submission that names a model is never lost: it becomes a row, PENDING or INVALID, and a repeat is answered from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from connectors.errors import AlreadyExists, ModelDataError
from connectors.model_data import TensorReader, find_not_finite
from connectors.records import (
    CLAIMABLE_STATUSES,
    BlobRef,
    Client,
    DataFormat,
    FederatedModel,
    ModelUpdate,
    ReasonCode,
    TensorSpec,
    UpdateStatus,
    is_eligible,
)
from fedqueue.messages import SubmitModelUpdate
from tasks.domain.admission import check_room, take_room
from tasks.domain.due import may_be_due
from tasks.domain.errors import LimitExceeded, ModelIsOver, SubmissionReused, UnknownAggregate
from tasks.domain.models import find_model, lock_model
from tasks.domain.notifications import tell_quarantined
from tasks.domain.own_events import result_received, update_quarantined
from tasks.domain.update_schema import find_breach
from tasks.hub import Hub

_NORM_CHUNK = 1 << 20

# Whole numbers are exact in float64 up to 9e15: sums of weights stay exact, and no single client drowns all others.
_MOST_EXAMPLES = 1e15


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of one, and whether it may have made a round due."""

    update: ModelUpdate
    repeated: bool
    may_be_due: bool = True


@dataclass(frozen=True, slots=True)
class _Intake:
    """A submission's data in the store and what it looks like, or why it can't count."""

    blob: BlobRef | None = None
    tensors: tuple[TensorSpec, ...] | None = None
    reason_code: ReasonCode | None = None
    reason: str | None = None


def submit_update(hub: Hub, message: SubmitModelUpdate, row_id: int | None = None) -> Submission:
    """The update as a row: PENDING if it may count, INVALID with the reason if not; a repeat gets the first answer.

    `row_id`: the row by which it came into the deployment that the hub works beside.
    Raises: UnknownModel, ModelIsOver, UnknownAggregate, SubmissionReused, LimitExceeded.
    """
    payload_digest = digest_of_payload(message)
    repeated = _answered_before(hub, message, payload_digest)
    if repeated is not None:
        return repeated
    model = find_model(hub, message.model_id)
    _check_open(model)
    client = hub.metadata.pull_client(message.client_id, model)
    try:
        check_room(hub, model, client)
        intake = _take_in(hub, model, client, message)
        return hub.metadata.transact(lambda _: _insert(hub, message, payload_digest, intake, row_id))
    except AlreadyExists:  # the same submission, at the same moment, in another worker
        repeated = _answered_before(hub, message, payload_digest)
        assert repeated is not None
        return repeated
    except LimitExceeded:
        # Likewise: it may be the same that took the last place.
        repeated = _answered_before(hub, message, payload_digest)
        if repeated is None:
            raise
        return repeated


def digest_of_payload(message: SubmitModelUpdate) -> str:
    """What makes two submissions the same: every field, except where the same bytes lie."""
    payload = message.model_dump(mode="json", exclude={"data_uri"} if message.digest else set())
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def _answered_before(hub: Hub, message: SubmitModelUpdate, payload_digest: str) -> Submission | None:
    found = hub.metadata.pull_model_update_w_submission_id(message.submission_id)
    if found is None:
        return None
    if found.payload_digest != payload_digest:
        raise SubmissionReused(message.submission_id, found.id)
    return Submission(found, True)


def _check_open(model: FederatedModel) -> None:
    if model.status not in CLAIMABLE_STATUSES:
        raise ModelIsOver(model)


def _insert(
    hub: Hub, message: SubmitModelUpdate, payload_digest: str, intake: _Intake, row_id: int | None
) -> Submission:
    """Write the update down, judged by the model as it stands now, under its lock."""
    metadata = hub.metadata
    model = lock_model(hub, message.model_id)
    _check_open(model)
    client = metadata.pull_client(message.client_id, model)
    open_updates = take_room(hub, model, client, 0 if intake.blob is None else intake.blob.size_bytes)
    base_number = None
    if message.base_aggregate is not None:
        base = metadata.pull_model_aggregate(message.base_aggregate)
        if base is None or base.model_id != model.id:
            raise UnknownAggregate(message.base_aggregate, message.model_id, "base_aggregate")
        base_number = base.number
    code, reason = intake.reason_code, intake.reason
    if client is None:
        code, reason = ReasonCode.UNREGISTERED_CLIENT, _unregistered(message, model)
    elif code is None:
        code, reason = _judge(model, message, intake, base_number)
    if intake.blob is not None:
        hub.model_data.hold(intake.blob)
    if code is None and model.tensors is None:
        metadata.change_federated_model(model, {"tensors": intake.tensors})
    update = _add(
        hub,
        ModelUpdate(
            id=0,
            model_id=model.id,
            client_id=None if client is None else client.id,
            client_uuid=message.client_id,
            submission_id=message.submission_id,
            payload_digest=payload_digest,
            data=intake.blob,
            num_examples=message.num_examples,
            status=UpdateStatus.PENDING if code is None else UpdateStatus.INVALID,
            reason_code=code,
            reason=reason,
            base_aggregate_id=message.base_aggregate,
            metrics=message.metrics,
            num_steps=message.num_steps,
            loss=message.loss,
        ),
        row_id,
    )
    if client is not None and code is None:
        metadata.add_logs([result_received(model, client, update)])
    elif code is not None:
        trust_id = None if client is None else client.trust_id
        metadata.add_logs([update_quarantined(model, update, code, reason or "", trust_id=trust_id)])
        tell_quarantined(hub, model, update, code, reason or "")
    return Submission(update, repeated=False, may_be_due=open_updates is None or may_be_due(model, open_updates))


def _add(hub: Hub, update: ModelUpdate, row_id: int | None) -> ModelUpdate:
    if row_id is None:
        return hub.metadata.add_model_update(update)
    deployment = hub.metadata.deployment
    assert deployment is not None, "only a deployment has rows that the hub did not write"
    return deployment.adopt_update(row_id, update)


def _judge(
    model: FederatedModel, message: SubmitModelUpdate, intake: _Intake, base_number: int | None
) -> tuple[ReasonCode | None, str | None]:
    """What only the model's present row can tell: does it look like the others, is it near enough."""
    assert intake.tensors is not None
    if model.tensors is not None:
        code, reason = compare_tensors(model.tensors, intake.tensors)
        if code is not None:
            return code, reason
    if not is_eligible(base_number, model.head, model.furthest_base_agg):
        return ReasonCode.STALE, too_stale(message.base_aggregate, base_number, model)
    return None, None


def too_stale(base_aggregate: int | None, base_number: int | None, model: FederatedModel) -> str:
    """The readable reason for STALE."""
    base = "no aggregate" if base_number is None else f"aggregate {base_aggregate} (number {base_number})"
    return f"trained from {base}; the newest is number {model.head} and only the {model.furthest_base_agg} newest count"


def _unregistered(message: SubmitModelUpdate, model: FederatedModel) -> str:
    return f"client {message.client_id} is not registered with model {model.uuid}"


def _take_in(hub: Hub, model: FederatedModel, client: Client | None, message: SubmitModelUpdate) -> _Intake:
    """Everything that needs no lock: the sender, the weight, and the data itself, read through once."""
    if client is None:
        return _Intake(reason_code=ReasonCode.UNREGISTERED_CLIENT, reason=_unregistered(message, model))
    if not 0 < message.num_examples <= _MOST_EXAMPLES:
        return _Intake(
            reason_code=ReasonCode.WEIGHT,
            reason=f"num_examples is {message.num_examples:g}: it must be above 0 and at most {_MOST_EXAMPLES:g}",
        )
    blob = None
    try:
        blob = _store(hub, model, message)
        reader = hub.model_data.open(blob, model.data_format)
        try:
            tensors = reader.tensors
            code, reason = _inspect(model, reader)
        finally:
            reader.close()
    except ModelDataError as error:
        return _Intake(blob=blob, reason_code=error.reason_code, reason=error.reason)
    return _Intake(blob, tensors, code, reason)


def _store(hub: Hub, model: FederatedModel, message: SubmitModelUpdate) -> BlobRef:
    if message.data_uri is not None:
        sent = hub.model_data.take_in(message.data_uri, message.digest)
        # What was sent in numpy's format is kept in the model's; payload_digest remembers what was sent.
        return hub.model_data.normalise(sent, model.data_format)
    if model.data_format is not DataFormat.JSON:
        raise ModelDataError(
            ReasonCode.SCHEMA, f"inline data is JSON, and the model is kept as {model.data_format}: send a data_uri"
        )
    return hub.model_data.push_model_data_to_storage(model, json.dumps(message.data).encode())


def _inspect(model: FederatedModel, reader: TensorReader) -> tuple[ReasonCode | None, str | None]:
    """The rules that the values themselves must keep. Memory: some pieces of the data, whatever its size."""
    if model.data_format is DataFormat.JSON and model.update_schema is not None:
        breach = find_breach(model.update_schema, reader)
        if breach is not None:
            return ReasonCode.SCHEMA, breach
    if model.tensors is not None:
        code, reason = compare_tensors(model.tensors, reader.tensors)
        if code is not None:
            return code, reason
    not_finite = find_not_finite(reader)
    if not_finite is not None:
        return ReasonCode.NOT_FINITE, not_finite
    if model.max_norm is not None:
        norm = norm_of(reader)
        if norm > model.max_norm:
            return ReasonCode.NORM, f"its L2 norm is {norm:.6g}, the model allows {model.max_norm:.6g}"
    return None, None


def compare_tensors(
    expected: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> tuple[ReasonCode | None, str | None]:
    """Whether an update has exactly the model's tensors, in any order; the first difference, for people."""
    wanted = {name: (shape, dtype) for name, shape, dtype in expected}
    given = {name: (shape, dtype) for name, shape, dtype in found}
    for name, (shape, dtype) in wanted.items():
        if name not in given:
            return ReasonCode.SCHEMA, f"tensor {name!r} is missing; the model has {len(wanted)} tensors"
        if given[name][0] != shape:
            return ReasonCode.SHAPE, f"tensor {name!r} has shape {list(given[name][0])}, the model's {list(shape)}"
        if given[name][1] != dtype:
            return ReasonCode.DTYPE, f"tensor {name!r} is {given[name][1]}, the model's {dtype}"
    for name in given:
        if name not in wanted:
            return ReasonCode.SCHEMA, f"tensor {name!r} is none of the model's"
    return None, None


def norm_of(reader: TensorReader) -> float:
    """The L2 norm over all tensors, summed in float64."""
    total = 0.0
    for name, shape, _dtype in reader.tensors:
        size = math.prod(shape)
        for start in range(0, size, _NORM_CHUNK):
            values = reader.read(name, start, min(start + _NORM_CHUNK, size)).astype(np.float64)
            total += float(values @ values)
    return math.sqrt(total)
