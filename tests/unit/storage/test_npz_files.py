"""Numpy's files: every tensor as numpy itself would read it, and nothing that numpy would have to be trusted with."""

from __future__ import annotations

import io
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.errors import ModelDataError
from connectors.records import BlobRef, DataFormat, FederatedModel, ReasonCode
from connectors.storage import FileModelDataConnector, Limits
from connectors.storage.npy_header import NPY_MAGIC
from connectors.storage.npz_files import NumpyReader, is_numpy
from fedqueue.blobs import blob_path, path_of

MODEL = FederatedModel(id=1, uuid=None)  # type: ignore[arg-type]  # only its place in the signature is used

DRAW = np.random.default_rng(1)
ARRAYS: dict[str, Any] = {
    "layer/weight": DRAW.normal(size=(7, 5)).astype(np.float32),
    "layer/transposed": np.asfortranarray(DRAW.normal(size=(4, 3, 2))),
    "half": DRAW.normal(size=9).astype(np.float16),
    "count": np.array(41, np.int64),
    "small": np.array([[1, -2], [3, 4]], np.int8),
    "mask": np.array([True, False, True]),
    "none": np.empty((0, 3), np.float32),
}


@pytest.fixture
def store(tmp_path: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path / "store")


def _npz(arrays: dict[str, Any], *, packed: bool = True) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def _npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


def _reader(store: FileModelDataConnector, data: bytes) -> NumpyReader:
    ref = store.push_model_data_to_storage(MODEL, data)
    return NumpyReader(store.root, blob_path(store.root, ref.digest), Limits())


def _read(reader: Any, name: str, shape: tuple[int, ...]) -> Any:
    return reader.read(name, 0, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("packed", [True, False], ids=["deflated", "stored"])
@pytest.mark.parametrize("large", [True, False], ids=["spilled", "in memory"])
def test_every_array_reads_back_as_itself(store: FileModelDataConnector, packed: bool, large: bool) -> None:
    arrays = ARRAYS | ({"large": DRAW.normal(size=(500, 600))} if large else {})
    with closing(_reader(store, _npz(arrays, packed=packed))) as reader:
        assert {name: shape for name, shape, _dtype in reader.tensors} == {k: v.shape for k, v in arrays.items()}
        for name, shape, _dtype in reader.tensors:
            read = _read(reader, name, shape)
            assert read.dtype == arrays[name].dtype
            assert np.array_equal(read, arrays[name])
            assert not read.flags.writeable
        assert reader.size_bytes == sum(array.nbytes for array in arrays.values())
    assert not list((store.root / "staging").iterdir()), "what was spilled has no name"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_bare_array_is_a_tensor_called_values(
    store: FileModelDataConnector, version: tuple[int, int], order: Any
) -> None:
    array = np.array(DRAW.normal(size=(6, 4)), order=order)
    with closing(_reader(store, _npy(array, version))) as reader:
        assert reader.tensors == (("values", (6, 4), "F64"),)
        assert np.array_equal(_read(reader, "values", (6, 4)), array)
        # In pieces, across rows, as the engine reads.
        assert reader.read("values", 3, 11).tolist() == array.reshape(-1)[3:11].tolist()


def test_views_stay_valid_when_the_reader_is_closed(store: FileModelDataConnector) -> None:
    reader = _reader(store, _npz({"w": np.arange(300_000.0)}))
    values = reader.read("w", 100, 103)
    reader.close()
    assert values.tolist() == [100.0, 101.0, 102.0]
    with pytest.raises(ValueError, match="closed"):
        reader.read("w", 0, 1)


def test_elements_beyond_the_array_are_an_error_of_the_caller(store: FileModelDataConnector) -> None:
    with closing(_reader(store, _npy(np.zeros(3)))) as reader, pytest.raises(ValueError, match="has 3 elements"):
        reader.read("values", 2, 4)


def test_numpys_files_are_told_from_the_others() -> None:
    """0x04034b50 is a length that a safetensors header may have, and how a zip archive begins."""
    assert is_numpy(_npz({"w": np.zeros(1)})[:8])
    assert is_numpy(_npy(np.zeros(1))[:8])
    assert not is_numpy((0x04034B50).to_bytes(8, "little"))
    assert not is_numpy(b"[1, 2]")
    assert not is_numpy(b"")


# --- the store ----------------------------------------------------------------------------------------------------


def test_the_same_arrays_become_the_blob_that_safetensors_would_have_been(store: FileModelDataConnector) -> None:
    arrays = {"b": np.arange(3, dtype=np.float32), "w": np.arange(6.0).reshape(2, 3)}
    sent = store.push_model_data_to_storage(MODEL, _npz(arrays))
    kept = store.normalise(sent, DataFormat.SAFETENSORS)
    native = store.prep_model_data_for_storage(arrays, DataFormat.SAFETENSORS)
    assert kept == store.push_model_data_to_storage(MODEL, native)
    assert kept.digest != sent.digest
    assert store.normalise(kept, DataFormat.SAFETENSORS) is kept


def test_a_json_model_takes_none_of_numpys_files(store: FileModelDataConnector) -> None:
    ref = store.push_model_data_to_storage(MODEL, _npy(np.zeros(3)))
    with pytest.raises(ModelDataError, match="numpy") as caught:
        store.normalise(ref, DataFormat.JSON)
    assert caught.value.reason_code is ReasonCode.SCHEMA


def test_a_refused_archive_leaves_nothing_behind(store: FileModelDataConnector) -> None:
    good = _npz({"w": np.ones(300_000), "x": np.ones(300_000)})
    ref = store.push_model_data_to_storage(MODEL, good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    with pytest.raises(ModelDataError):
        store.normalise(ref, DataFormat.SAFETENSORS)
    assert [path for path in store.root.rglob("*") if path.is_file()] == [path_of(ref.uri)]


def _damaged(data: bytes, seed: int) -> bytes:
    """One to four bytes changed, or the end cut off."""
    draw = np.random.default_rng(seed)
    if seed % 5 == 0:
        return data[: draw.integers(1, len(data))]
    changed = bytearray(data)
    # Where the structure is, rather than in the middle of values.
    places = [draw.integers(0, 200), draw.integers(len(data) - 400, len(data)), draw.integers(0, len(data))]
    for place in places[: 1 + seed % 3]:
        changed[place] = draw.integers(0, 256)
    return bytes(changed)


@pytest.mark.parametrize("packed", [True, False], ids=["deflated", "stored"])
def test_whatever_is_damaged_is_read_as_it_was_or_refused(store: FileModelDataConnector, packed: bool) -> None:
    """Never another error: an untyped one would be retried for ever, as if the store were at fault."""
    data = _npz(ARRAYS, packed=packed)
    refused: list[ReasonCode] = []
    path = store.root / "damaged"
    for seed in range(500):
        path.write_bytes(_damaged(data, seed))
        try:
            with closing(NumpyReader(store.root, path, Limits())) as reader:
                for name, shape, _dtype in reader.tensors:
                    read = _read(reader, name, shape)
                    assert (
                        name not in ARRAYS
                        or shape != ARRAYS[name].shape
                        or read.dtype != ARRAYS[name].dtype
                        or (np.array_equal(read, ARRAYS[name]))
                    )
        except ModelDataError as error:
            refused.append(error.reason_code)
    assert len(refused) > 250
    assert set(refused) <= {ReasonCode.CORRUPT, ReasonCode.DTYPE, ReasonCode.TOO_LARGE}


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(max_tensors=6), "7 members, the limit is 6"),
        (Limits(max_bytes=3000), r"unpacks to \d+ bytes, the limit is 3000"),
        (Limits(max_unpacked_ratio=1, ratio_free_bytes=1000), "more than 1 times"),
    ],
    ids=["members", "bytes", "ratio"],
)
def test_an_archive_over_a_limit_is_too_large(store: FileModelDataConnector, limits: Limits, says: str) -> None:
    arrays = {str(position): np.zeros(100) for position in range(7)}
    path = store.root / "archive"
    path.write_bytes(_npz(arrays))
    with pytest.raises(ModelDataError, match=says) as caught:
        NumpyReader(store.root, path, limits)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE


def test_a_small_archive_may_unpack_to_any_multiple(store: FileModelDataConnector) -> None:
    """A megabyte of zeros harms nobody, and new layers begin so."""
    data = _npz({"w": np.zeros(1 << 20)})
    assert len(data) * 500 < 1 << 23
    with closing(_reader(store, data)) as reader:
        assert reader.read("w", 0, 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "dtype", ["O", ">f4", ">i8", "c8", "V2", "U3", "S3", "M8[s]", "f4,i4"], ids=lambda dtype: dtype.replace("[s]", "")
)
def test_a_dtype_that_has_no_mean_or_no_name_is_refused_by_name(store: FileModelDataConnector, dtype: str) -> None:
    file = io.BytesIO()
    array = np.zeros(2, np.dtype(dtype))
    file.write(NPY_MAGIC + b"\x01\x00")
    text = (
        repr(
            {
                "descr": array.dtype.str if array.dtype.fields is None else array.dtype.descr,
                "fortran_order": False,
                "shape": (2,),
            }
        ).encode()
        + b"\n"
    )
    file.write(len(text).to_bytes(2, "little") + text + bytes(array.nbytes))
    with pytest.raises(ModelDataError, match="array 'values' is of dtype") as caught:
        _reader(store, file.getvalue())
    assert caught.value.reason_code is ReasonCode.DTYPE


def test_an_archive_that_stands_behind_other_bytes_is_not_one_of_numpys(store: FileModelDataConnector) -> None:
    """A zip's list of members is at its end: what stands before it could be anything, a second archive too."""
    file = io.BytesIO()
    file.write(b"#!/bin/sh\n")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("w.npy", _npy(np.zeros(1)))
    ref = store.push_model_data_to_storage(MODEL, file.getvalue())
    assert store.normalise(ref, DataFormat.SAFETENSORS) is ref
    with pytest.raises(ModelDataError, match="not a sound safetensors file"):
        store.open(BlobRef(ref.uri, ref.digest, ref.size_bytes), DataFormat.SAFETENSORS)
