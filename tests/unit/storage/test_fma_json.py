"""FMA's JSON: a flat list or layers, in and out in the same form."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from connectors.errors import ModelDataError
from connectors.model_data import TensorReader
from connectors.records import BlobRef, DataFormat, FederatedModel, ReasonCode, TensorSpec
from connectors.storage import FileModelDataConnector, Limits
from connectors.storage.fma_json import parse_fma_json

MODEL = FederatedModel(id=1, uuid=None)  # type: ignore[arg-type]  # only its place in the signature is used


@pytest.fixture
def store(tmp_path: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path / "store")


def _copy(store: FileModelDataConnector, reader: TensorReader, piece: int = 2) -> BlobRef:
    with store.writer(reader.tensors, DataFormat.JSON) as writer:
        for name, shape, _dtype in reader.tensors:
            size = int(np.prod(shape))
            for start in range(0, size, piece):
                writer.write(name, start, reader.read(name, start, min(start + piece, size)))
        return writer.commit()


@pytest.mark.parametrize(
    ("data", "tensors"),
    [
        ([1, 2, 4], [("values", (3,), "F64")]),
        ([], [("values", (0,), "F64")]),
        ([[1, 2, 4]], [("0", (3,), "F64")]),
        ([[]], [("0", (0,), "F64")]),
        ([[1, 2], [3]], [("0", (2,), "F64"), ("1", (1,), "F64")]),
        ([1, [2, 3]], [("0", (), "F64"), ("1", (2,), "F64")]),
        ([[[1, 2], [3, 4]], 5], [("0", (2, 2), "F64"), ("1", (), "F64")]),
        ([[[], []]], [("0", (2, 0), "F64")]),
        ([[[[1.5]]]], [("0", (1, 1, 1), "F64")]),
    ],
    ids=str,
)
def test_every_form_is_written_back_as_it_came(
    store: FileModelDataConnector, data: Any, tensors: list[TensorSpec]
) -> None:
    ref = store.push_model_data_to_storage(MODEL, json.dumps(data).encode())
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        assert list(reader.tensors) == tensors
        assert reader.size_bytes == 8 * sum(int(np.prod(shape)) for _name, shape, _dtype in tensors)
        copied = _copy(store, reader)
    text = Path(copied.uri.removeprefix("file://")).read_text()
    assert json.loads(text) == data
    assert copied.size_bytes == len(text)


def test_whole_numbers_are_floats_so_that_a_mean_keeps_its_fraction() -> None:
    assert parse_fma_json(b"[1, 2, 4]", Limits())["values"].dtype == np.float64


def test_every_float_reads_back_as_itself(store: FileModelDataConnector) -> None:
    values = [0.1, 1 / 3, 5e-324, sys.float_info.max, -0.0, 2.0**53 + 2]
    ref = store.push_model_data_to_storage(MODEL, store.prep_model_data_for_storage(values, DataFormat.JSON))
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        assert [value.hex() for value in reader.read("values", 0, 6).tolist()] == [value.hex() for value in values]


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (b"[1, NaN]", ReasonCode.NOT_FINITE, "NaN"),
        (b"[1, -Infinity]", ReasonCode.NOT_FINITE, "-Infinity"),
        (b"[1, 1e400]", ReasonCode.NOT_FINITE, r"\[1\] is beyond"),
        (b"[[1], 1e400]", ReasonCode.NOT_FINITE, r"^\[1\] is beyond"),
        (b"[[1], [0, 2, 1e400]]", ReasonCode.NOT_FINITE, r"\[1\]\[2\] is beyond"),
        (b"[" + b"9" * 100_000 + b"]", ReasonCode.NOT_FINITE, r"\[0\] is beyond"),
        (b"[1, true]", ReasonCode.SCHEMA, r"\[1\] is true or false"),
        (b"[[1, 2], [1, null]]", ReasonCode.SCHEMA, r"\[1\]\[1\] is null"),
        (b'[[1, 2], ["x"]]', ReasonCode.SCHEMA, r"\[1\]\[0\] is text"),
        (b'[{"a": 1}]', ReasonCode.SCHEMA, r"\[0\] is an object"),
        (b"3.5", ReasonCode.SCHEMA, "the data is a number"),
        (b'{"w": [1]}', ReasonCode.SCHEMA, "the data is an object"),
        (b"[[[1, 2], [3]]]", ReasonCode.SHAPE, r"\[0\]\[1\] has shape \[1\] where \[0\]\[0\] has \[2\]"),
        (b"[[[1, 2], 3]]", ReasonCode.SHAPE, r"\[0\]\[1\] has shape \[\]"),
        (b"[[1, [2]]]", ReasonCode.SHAPE, r"\[0\]\[1\] has shape \[1\]"),
        (b"[" * 100_000, ReasonCode.SCHEMA, "nested deeper than 64"),
        (b"[" * 70 + b"]" * 70, ReasonCode.SCHEMA, "nested deeper than 64"),
        (b"[1, 2", ReasonCode.CORRUPT, "not JSON"),
        (b"[1, 2] 3", ReasonCode.CORRUPT, "not JSON"),
        (b"\xff\xfe", ReasonCode.CORRUPT, "not JSON"),
        (b"", ReasonCode.CORRUPT, "not JSON"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_not_numbers_in_lists_is_refused_by_its_place(text: bytes, code: ReasonCode, says: str) -> None:
    with pytest.raises(ModelDataError, match=says) as caught:
        parse_fma_json(text, Limits())
    assert caught.value.reason_code is code


@pytest.mark.parametrize(
    ("text", "limits"), [(b"[1, 2, 3]", Limits(max_json_bytes=8)), (b"[[1], [2], [3]]", Limits(max_tensors=2))]
)
def test_json_over_a_limit_is_too_large(tmp_path: Path, text: bytes, limits: Limits) -> None:
    store = FileModelDataConnector(tmp_path, limits=limits)
    ref = store.push_model_data_to_storage(MODEL, text)
    with pytest.raises(ModelDataError) as caught:
        store.open(ref, DataFormat.JSON)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE


def test_a_large_json_model_waits_in_a_file_and_reads_the_same(store: FileModelDataConnector) -> None:
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(300, 400)), rng.normal(size=100_000)]
    ref = store.push_model_data_to_storage(MODEL, store.prep_model_data_for_storage(layers, DataFormat.JSON))
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        assert "staging" in Path("/proc/self/maps").read_text()
        assert np.array_equal(reader.read("0", 0, 120_000), layers[0].ravel())
        assert np.array_equal(reader.read("1", 5, 100_000), layers[1][5:])
        copied = _copy(store, reader, piece=50_000)
    assert copied.digest == ref.digest
    assert list((store.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([1, 2], "[1.0, 2.0]"),
        ([np.array([1, 2]), np.float32(0.5)], "[[1.0, 2.0], 0.5]"),
        (np.array([1.0, 2.0]), "[1.0, 2.0]"),
        ([np.array([1.5], ml_dtypes.bfloat16)], "[[1.5]]"),
        ({"values": np.array([1, 2], np.int8)}, "[1.0, 2.0]"),
        ({"0": np.ones((1, 2), np.float32), "1": np.array(3.0)}, "[[[1.0, 1.0]], 3.0]"),
    ],
)
def test_lists_and_arrays_become_fmas_text(store: FileModelDataConnector, data: Any, text: str) -> None:
    assert store.prep_model_data_for_storage(data, DataFormat.JSON).decode() == text


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"w": np.ones(2)}, ReasonCode.SCHEMA),
        ({"1": np.ones(2), "0": np.ones(2)}, ReasonCode.SCHEMA),
        ({"0": np.array(1.0)}, ReasonCode.SCHEMA),
        ({}, ReasonCode.SCHEMA),
        ({"values": np.array([True])}, ReasonCode.DTYPE),
        ({"values": np.array([1j])}, ReasonCode.DTYPE),
        ({"values": np.array([np.inf])}, ReasonCode.NOT_FINITE),
        ([np.nan], ReasonCode.NOT_FINITE),
        ([object()], ReasonCode.SCHEMA),
        ([True], ReasonCode.SCHEMA),
    ],
)
def test_what_fmas_text_can_not_hold_is_refused(store: FileModelDataConnector, data: Any, code: ReasonCode) -> None:
    with pytest.raises(ModelDataError) as caught:
        store.prep_model_data_for_storage(data, DataFormat.JSON)
    assert caught.value.reason_code is code


def test_an_incomplete_json_model_can_not_be_committed(store: FileModelDataConnector) -> None:
    with store.writer([("values", (3,), "F64")], DataFormat.JSON) as writer:
        writer.write("values", 0, np.ones(2))
        with pytest.raises(ValueError, match="2 of 3"):
            writer.commit()


def test_a_json_model_takes_float64_alone(store: FileModelDataConnector) -> None:
    with pytest.raises(ModelDataError, match="F32"), store.writer([("values", (3,), "F32")], DataFormat.JSON):
        pass
