"""A submission is judged before it counts: typed, readable, and never in the way of the round."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from connectors.records import ModelStatus, ReasonCode, UpdateStatus
from fedqueue.messages import SubmitModelUpdate
from tasks.domain.errors import ModelIsOver, SubmissionReused, UnknownAggregate, UnknownModel
from tasks.domain.rounds import run_round
from tasks.domain.submission import submit_update


def _goes_on(bench: Any, model: Any, client: Any, good: Any) -> None:
    """A good update after the bad one is posted alone."""
    bench.submit(model, client, good)
    assert bench.post(model).num_updates == 1


def test_a_good_update_waits_for_its_round(bench: Any) -> None:
    model, (one, _) = bench.model()
    update = bench.submit(model, one, [1, 2], num_examples=5, metrics={"loss": 0.1})
    assert (update.status, update.num_examples, update.metrics) == (UpdateStatus.PENDING, 5.0, {"loss": 0.1})


def test_the_first_accepted_update_settles_what_the_others_must_look_like(bench: Any) -> None:
    model, (one, two) = bench.model()
    blob = bench.store.push_model_data_to_storage(model, b"[1e400, 2, 3]")
    infinite = bench.submit(model, one, None, data_uri=blob.uri, digest=blob.digest)
    assert infinite.reason_code is ReasonCode.NOT_FINITE
    assert bench.now(model).tensors is None, "one that is set aside settles nothing"
    bench.submit(model, one, [[1, 2], [3]])
    assert bench.now(model).tensors == (("0", (2,), "F64"), ("1", (1,), "F64"))
    assert bench.submit(model, two, [[1, 2], [3, 4]]).reason_code is ReasonCode.SHAPE


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ([[1, 2, 3]], ReasonCode.SCHEMA, "tensor 'values' is missing"),
        ([1, 2, 3], ReasonCode.SHAPE, "shape [3], the model's [2]"),
        (["a", 2], ReasonCode.SCHEMA, "[0]"),
        ([[1, 2], [[1], [2, 3]]], ReasonCode.SHAPE, "[1]"),
        ({"w": [1, 2]}, ReasonCode.SCHEMA, "an object"),
    ],
)
def test_misshapen_data_is_set_aside_with_its_place(bench: Any, data: Any, code: ReasonCode, words: str) -> None:
    model, (one, two) = bench.model(initial_data=[0, 0])
    update = bench.submit(model, one, data)
    assert (update.status, update.reason_code) == (UpdateStatus.INVALID, code)
    assert words in update.reason
    _goes_on(bench, model, two, [1, 2])


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        (
            {"w": np.zeros((3, 3), "f4"), "b": np.zeros(3, "f4")},
            ReasonCode.SHAPE,
            "'w' has shape [3, 3], the model's [3]",
        ),
        ({"w": np.zeros(3, "f8"), "b": np.zeros(3, "f4")}, ReasonCode.DTYPE, "'w' is F64, the model's F32"),
        ({"w": np.zeros(3, "f4")}, ReasonCode.SCHEMA, "'b' is missing"),
        (
            {"w": np.zeros(3, "f4"), "b": np.zeros(3, "f4"), "x": np.zeros(1, "f4")},
            ReasonCode.SCHEMA,
            "'x' is none of the model's",
        ),
        ({"w": np.array([1, np.nan, 3], "f4"), "b": np.zeros(3, "f4")}, ReasonCode.NOT_FINITE, "w[1] is nan"),
        ({"w": np.array([1, 2, np.inf], "f4"), "b": np.zeros(3, "f4")}, ReasonCode.NOT_FINITE, "w[2] is inf"),
    ],
)
def test_tensors_must_be_the_models(bench: Any, arrays: Any, code: ReasonCode, words: str) -> None:
    """(3,) never broadcasts into (3, 3), a partial set of keys is never truncated (DESIGN 11)."""
    model, (one, two) = bench.model(data_format="safetensors")
    good = {"b": np.ones(3, "f4"), "w": np.ones(3, "f4")}
    bench.submit_arrays(model, two, good)
    update = bench.submit_arrays(model, one, arrays)
    assert (update.status, update.reason_code) == (UpdateStatus.INVALID, code)
    assert words in update.reason
    assert bench.post(model).num_updates == 1


@pytest.mark.parametrize("num_examples", [0, -1, -0.0, 1e16])
def test_a_weight_must_be_above_zero(bench: Any, num_examples: float) -> None:
    """num_examples = 0 gave NaN, negative ones were accepted (Flower, NVFLARE, FEDn)."""
    model, (one, two) = bench.model()
    update = bench.submit(model, one, [1.0], num_examples=num_examples)
    assert (update.reason_code, "above 0" in update.reason) == (ReasonCode.WEIGHT, True)
    _goes_on(bench, model, two, [1.0])


def test_an_unregistered_client_is_set_aside_and_remembered(bench: Any) -> None:
    model, (_, two) = bench.model()
    stranger = uuid4()
    update = bench.submit(model, stranger, [1.0])
    assert (update.reason_code, update.client_id, update.client_uuid) == (
        ReasonCode.UNREGISTERED_CLIENT,
        None,
        stranger,
    )
    _goes_on(bench, model, two, [1.0])


def test_a_truncated_file_is_set_aside(bench: Any) -> None:
    model, (one, two) = bench.model(data_format="safetensors")
    from safetensors.numpy import save

    whole = save({"w": np.ones(100, "f4")})
    blob = bench.store.push_model_data_to_storage(model, whole[:-10])
    update = bench.submit(model, one, None, data_uri=blob.uri, digest=blob.digest)
    assert (update.status, update.reason_code) == (UpdateStatus.INVALID, ReasonCode.CORRUPT)
    bench.submit_arrays(model, two, {"w": np.ones(100, "f4")})
    assert run_round(bench.hub, model.id).outcome == "posted"


def test_a_file_whose_bytes_are_not_the_digests_is_set_aside(bench: Any, tmp_path: Any) -> None:
    model, (one, _) = bench.model()
    blob = bench.store.push_model_data_to_storage(model, b"[1.0]")
    update = bench.submit(model, one, None, data_uri=blob.uri, digest="0" * 64)
    assert update.reason_code is ReasonCode.CORRUPT


def test_inline_data_fits_only_a_json_model(bench: Any) -> None:
    model, (one, _) = bench.model(data_format="safetensors")
    update = bench.submit(model, one, [1.0])
    assert (update.reason_code, "send a data_uri" in update.reason) == (ReasonCode.SCHEMA, True)


def test_json_data_is_held_to_the_models_schema(bench: Any) -> None:
    schema = {"type": "array", "prefixItems": [{"type": "array", "maxItems": 2}], "minItems": 2}
    model, (one, two) = bench.model(update_schema=schema)
    update = bench.submit(model, one, [[1, 2, 3], [4]])
    assert (update.reason_code, update.reason) == (ReasonCode.SCHEMA, "$[0]: [1.0, 2.0, 3.0] is too long")
    _goes_on(bench, model, two, [[1, 2], [4]])


def test_a_norm_bound_is_kept(bench: Any) -> None:
    model, (one, two) = bench.model(max_norm=5)
    assert bench.submit(model, one, [3, 4]).status is UpdateStatus.PENDING
    update = bench.submit(model, two, [3, 4.1])
    assert (update.reason_code, "5.08" in update.reason) == (ReasonCode.NORM, True)


def test_an_update_from_too_old_a_base_is_stale(bench: Any) -> None:
    model, (one, two) = bench.model(furthest_base_agg=1)
    bench.submit(model, one, [1.0])
    first = bench.post(model)
    late = bench.submit(model, two, [1.0])
    assert late.reason_code is ReasonCode.STALE
    assert "trained from no aggregate; the newest is number 1" in late.reason
    assert bench.submit(model, two, [1.0], base_aggregate=first.id).status is UpdateStatus.PENDING


def test_a_repeat_is_answered_as_the_first_time_and_counts_once(bench: Any) -> None:
    model, (one, _) = bench.model()
    message = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=one, data=[2.0], num_examples=3)
    first, again = submit_update(bench.hub, message), submit_update(bench.hub, message)
    assert (first.update.id, first.repeated, again.repeated) == (again.update.id, False, True)
    run_round(bench.hub, model.id)
    late = submit_update(bench.hub, message)
    assert (late.update.id, late.update.status, late.repeated) == (first.update.id, UpdateStatus.COMPLETE, True)
    assert run_round(bench.hub, model.id).outcome == "idle"


def test_a_repeat_of_a_refusal_is_refused_alike(bench: Any) -> None:
    model, (one, _) = bench.model()
    message = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=one, data=["x"])
    first, again = submit_update(bench.hub, message), submit_update(bench.hub, message)
    assert (again.update.reason_code, again.update.reason) == (first.update.reason_code, first.update.reason)
    assert again.repeated


def test_a_submission_id_with_another_payload_is_refused(bench: Any) -> None:
    model, (one, _) = bench.model()
    submission_id = uuid4()
    bench.submit(model, one, [1.0], submission_id=submission_id)
    with pytest.raises(SubmissionReused, match="another payload"):
        bench.submit(model, one, [2.0], submission_id=submission_id)


def test_the_same_bytes_elsewhere_are_the_same_payload(bench: Any) -> None:
    """A client that repeats itself after a restart may have written its file to another place."""
    model, (one, _) = bench.model()
    blob = bench.store.push_model_data_to_storage(model, b"[1.0]")
    submission_id = uuid4()
    bench.submit(model, one, None, submission_id=submission_id, data_uri=blob.uri, digest=blob.digest)
    message = SubmitModelUpdate(
        submission_id=submission_id, model_id=model.uuid, client_id=one, data_uri="file:///gone", digest=blob.digest
    )
    assert submit_update(bench.hub, message).repeated


def test_an_unknown_model_is_refused(bench: Any) -> None:
    model, (one, _) = bench.model()
    with pytest.raises(UnknownModel):
        bench.submit(model, one, [1.0], model_id=uuid4())


def test_an_unknown_base_is_refused(bench: Any) -> None:
    model, (one, _) = bench.model()
    other, (client, _) = bench.model()
    bench.submit(other, client, [1.0])
    foreign = bench.post(other)
    for base in (4711, foreign.id):
        with pytest.raises(UnknownAggregate) as refused:
            bench.submit(model, one, [1.0], base_aggregate=base)
        assert refused.value.field == "base_aggregate"


def test_a_deleted_model_accepts_nothing(bench: Any) -> None:
    model, (one, _) = bench.model()
    with bench.metadata.transaction():
        bench.metadata.delete_federated_models([model])
    with pytest.raises(UnknownModel):
        bench.submit(model, one, [1.0])


@pytest.mark.parametrize("status", [ModelStatus.STOPPED, ModelStatus.ERROR, ModelStatus.RESULTS_UPLOADED])
def test_a_run_that_is_over_takes_no_updates(bench: Any, status: ModelStatus) -> None:
    model, (one, _) = bench.model()
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, status)
    with pytest.raises(ModelIsOver, match=status):
        bench.submit(model, one, [1.0])
