"""Updates in numpy's own format: kept in the model's, judged and combined like any other."""

from __future__ import annotations

import io
from hashlib import sha256
from typing import Any
from uuid import uuid4

import numpy as np

from connectors.records import ReasonCode, UpdateStatus
from fedqueue.messages import SubmitModelUpdate
from tasks.domain.submission import submit_update


def _npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _submit(bench: Any, model: Any, client: Any, data: bytes, **fields: Any) -> Any:
    blob = bench.store.push_model_data_to_storage(model, data)
    return bench.submit(model, client, None, data_uri=blob.uri, digest=blob.digest, **fields)


def test_an_archive_and_safetensors_meet_in_one_round(bench: Any) -> None:
    """(1 × 1 + 3 × 5) / 4 = 4, in the dtype that both were sent in."""
    model, (one, two) = bench.model(data_format="safetensors")
    sent = _submit(bench, model, one, _npz({"w": np.array([1.0, -1.0], np.float32)}), num_examples=1)
    assert (sent.status, sent.reason) == (UpdateStatus.PENDING, None)
    bench.submit_arrays(model, two, {"w": np.array([5.0, 3.0], np.float32)}, num_examples=3)
    assert bench.now(model).tensors == (("w", (2,), "F32"),)
    assert bench.post(model).num_updates == 2
    assert bench.values(model) == {"w": [4.0, 2.0]}


def test_a_bare_array_is_a_model_of_one_tensor(bench: Any) -> None:
    model, (one, _) = bench.model(data_format="safetensors")
    file = io.BytesIO()
    np.save(file, np.array([[1.0, 2.0]]))
    _submit(bench, model, one, file.getvalue())
    bench.post(model)
    assert bench.values(model) == {"values": [1.0, 2.0]}


def test_its_blob_is_another_than_was_sent_and_a_repeat_is_still_known(bench: Any) -> None:
    """The digest in the message is of what was sent; the row names what is kept."""
    model, (one, _) = bench.model(data_format="safetensors")
    data = _npz({"w": np.array([1.0])})
    blob = bench.store.push_model_data_to_storage(model, data)
    message = SubmitModelUpdate(
        submission_id=uuid4(), model_id=model.uuid, client_id=one, data_uri=blob.uri, digest=sha256(data).hexdigest()
    )
    first = submit_update(bench.hub, message)
    assert first.update.data is not None
    assert first.update.data.digest != message.digest
    again = submit_update(bench.hub, message)
    assert (again.repeated, again.update) == (True, first.update)


def test_what_is_wrong_with_it_is_a_reason_like_any_other(bench: Any) -> None:
    model, (one, two) = bench.model(data_format="safetensors")
    _submit(bench, model, one, _npz({"w": np.zeros(3, np.float32)}))
    for arrays, code, words in (
        ({"w": np.zeros((3, 3), np.float32)}, ReasonCode.SHAPE, "'w' has shape [3, 3], the model's [3]"),
        ({"w": np.array([0, np.nan, 0], np.float32)}, ReasonCode.NOT_FINITE, "w[1] is nan"),
        ({"w": np.array([None, None, None])}, ReasonCode.DTYPE, "'w' is of dtype '|O'"),
        ({"w": np.zeros(1 << 25)}, ReasonCode.TOO_LARGE, "more than 100 times as many"),
    ):
        update = _submit(bench, model, two, _npz(arrays))
        assert (update.status, update.reason_code) == (UpdateStatus.INVALID, code)
        assert words in update.reason
    assert bench.post(model).num_updates == 1


def test_a_json_model_says_that_it_takes_none(bench: Any) -> None:
    model, (one, _) = bench.model()
    update = _submit(bench, model, one, _npz({"w": np.zeros(1)}))
    assert (update.reason_code, update.reason) == (
        ReasonCode.SCHEMA,
        "a file of numpy's, and the model is kept as json",
    )
