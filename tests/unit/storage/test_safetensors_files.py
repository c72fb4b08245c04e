"""Safetensors: read by map, written by pieces, every claim of a header doubted."""

from __future__ import annotations

import json
import os
import resource
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest
import safetensors.numpy

from connectors.errors import ModelDataError, StoreUnavailable
from connectors.model_data import find_not_finite
from connectors.records import BlobRef, DataFormat, FederatedModel, ReasonCode, TensorSpec
from connectors.storage import FileModelDataConnector, Limits
from connectors.storage.dtypes import NUMPY_DTYPES
from tasks.aggregation import dtypes as engine_dtypes

MODEL = FederatedModel(id=1, uuid=None)  # type: ignore[arg-type]  # only its place in the signature is used


@pytest.fixture
def store(tmp_path: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path / "store")


def _file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def _open(store: FileModelDataConnector, data: bytes) -> Any:
    return store.open(store.push_model_data_to_storage(MODEL, data), DataFormat.SAFETENSORS)


def _write(store: FileModelDataConnector, arrays: dict[str, np.ndarray[Any, Any]], piece: int = 3) -> BlobRef:
    names = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
    specs: list[TensorSpec] = [(name, array.shape, names[array.dtype]) for name, array in arrays.items()]
    with store.writer(specs, DataFormat.SAFETENSORS, {"round": "1"}) as writer:
        for name, array in arrays.items():
            flat = array.reshape(-1)
            for start in range(0, flat.size, piece):
                writer.write(name, start, flat[start : start + piece])
        return writer.commit()


def _all_dtypes() -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.arange(5).astype(dtype) for name, dtype in NUMPY_DTYPES.items()}


def test_what_the_writer_writes_the_official_library_reads(store: FileModelDataConnector) -> None:
    arrays = {name: array for name, array in _all_dtypes().items() if name != "BF16"}
    arrays |= {"scalar": np.array(7.5), "empty": np.zeros((0, 3), np.float32), "matrix": np.eye(3)}
    ref = _write(store, arrays)
    stored = Path(ref.uri.removeprefix("file://")).read_bytes()
    assert len(stored) == ref.size_bytes
    read = safetensors.numpy.load(stored)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].shape == array.shape
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)


def test_what_the_official_library_writes_the_reader_reads(store: FileModelDataConnector) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(2.5), "e": np.zeros((0,))}
    with closing(_open(store, safetensors.numpy.save(arrays, {"made": "there"}))) as reader:
        assert {spec[:2] for spec in reader.tensors} == {("w", (2, 3)), ("scalar", ()), ("e", (0,))}
        assert reader.read("w", 1, 4).tolist() == [1.0, 2.0, 3.0]
        assert reader.read("scalar", 0, 1).tolist() == [2.5]
        assert reader.read("e", 0, 0).size == 0
        assert reader.size_bytes == 24 + 8


@pytest.mark.parametrize("dtype", list(NUMPY_DTYPES))
def test_every_allowed_dtype_comes_back_as_it_went_in(store: FileModelDataConnector, dtype: str) -> None:
    array = _all_dtypes()[dtype]
    with closing(store.open(_write(store, {"w": array}), DataFormat.SAFETENSORS)) as reader:
        assert reader.tensors == (("w", (5,), dtype),)
        values = reader.read("w", 0, 5)
        assert values.dtype == array.dtype
        assert values.tolist() == array.tolist()


def test_the_engine_and_the_store_know_the_same_dtypes() -> None:
    assert dict(engine_dtypes.NUMPY_DTYPES) == dict(NUMPY_DTYPES)


def test_every_tensor_lies_aligned_whatever_the_order_given(store: FileModelDataConnector) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "odd": np.zeros(3, np.int8),
        "half": np.ones(1, np.float16),
        "wide": np.arange(4.0),
    }
    with closing(store.open(_write(store, arrays), DataFormat.SAFETENSORS)) as reader:
        for name, array in arrays.items():
            assert reader.read(name, 0, array.size).flags.aligned


def test_a_read_is_a_view_of_the_map_and_outlives_the_reader(store: FileModelDataConnector) -> None:
    reader = store.open(_write(store, {"w": np.arange(4.0)}), DataFormat.SAFETENSORS)
    values = reader.read("w", 0, 4)
    assert not values.flags.owndata
    assert not values.flags.writeable
    reader.close()
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="closed"):
        reader.read("w", 0, 1)


def test_an_unaligned_file_of_others_is_read_all_the_same(store: FileModelDataConnector) -> None:
    header = {"b": _entry("I8", (1,), (0, 1)), "w": _entry("F64", (1,), (1, 9))}
    with closing(_open(store, _file(header, b"\x07" + struct.pack("<d", 2.5)))) as reader:
        assert reader.read("w", 0, 1).tolist() == [2.5]


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", ReasonCode.CORRUPT, "0 bytes"),
        (b"\x01\x02", ReasonCode.CORRUPT, "2 bytes"),
        (struct.pack("<Q", 1 << 62) + b"{}", ReasonCode.CORRUPT, "claims 4611686018427387904 bytes"),
        (_file(b"[1, 2]"), ReasonCode.CORRUPT, "not a JSON object"),
        (_file(b"{ nothing"), ReasonCode.CORRUPT, "not JSON"),
        (_file(b"{\xff}"), ReasonCode.CORRUPT, "not JSON"),
        (_file(b'{"w":' + b"[" * 100_000), ReasonCode.CORRUPT, "nested too deeply"),
        (_file(b'{"w":' + b"1" * 5000 + b"}"), ReasonCode.CORRUPT, "not JSON"),
        (_file({"w": _entry()}, b"\0" * 7), ReasonCode.CORRUPT, "cut short"),
        (_file({"w": _entry()}, b"\0" * 9), ReasonCode.CORRUPT, "something follows"),
        (_file({"w": _entry(), "v": _entry()}, b"\0" * 8), ReasonCode.CORRUPT, "overlaps"),
        (_file({"w": _entry(offsets=(4, 12))}, b"\0" * 12), ReasonCode.CORRUPT, "leaves 4 bytes"),
        (_file({"w": _entry(shape=(3,))}, b"\0" * 8), ReasonCode.CORRUPT, "needs 12 bytes"),
        (_file({"w": _entry(shape=(-2,))}, b"\0" * 8), ReasonCode.CORRUPT, "proper shape"),
        (_file({"w": _entry(shape=(True, 2))}, b"\0" * 8), ReasonCode.CORRUPT, "proper shape"),
        (_file({"w": _entry(shape=(2.0,))}, b"\0" * 8), ReasonCode.CORRUPT, "proper shape"),
        (_file({"w": _entry(shape=[1] * 65, offsets=(0, 4))}, b"\0" * 4), ReasonCode.CORRUPT, "proper shape"),
        (_file({"w": _entry(offsets=(8, 0))}, b"\0" * 8), ReasonCode.CORRUPT, "data_offsets"),
        (_file({"w": _entry(offsets=(0, 8, 8))}, b"\0" * 8), ReasonCode.CORRUPT, "data_offsets"),
        (_file({"w": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), ReasonCode.CORRUPT, "fields"),
        (_file({"w": 5}), ReasonCode.CORRUPT, "fields"),
        (_file({"w": _entry("F8_E4M3", (8,))}, b"\0" * 8), ReasonCode.DTYPE, "F8_E4M3"),
        (_file({"w": _entry(["F32"])}, b"\0" * 8), ReasonCode.DTYPE, "dtype"),  # type: ignore[arg-type]
        (_file({"__metadata__": {"a": 1}}), ReasonCode.CORRUPT, "__metadata__"),
    ],
)
def test_a_lying_header_is_refused_with_what_is_wrong(
    store: FileModelDataConnector, data: bytes, code: ReasonCode, says: str
) -> None:
    with pytest.raises(ModelDataError, match=says) as caught:
        _open(store, data)
    assert caught.value.reason_code is code


def test_a_name_given_twice_is_refused_not_overwritten(store: FileModelDataConnector) -> None:
    """json.loads alone would keep the last one and never mention the first."""
    one = json.dumps(_entry())
    with pytest.raises(ModelDataError, match="'w' twice"):
        _open(store, _file(f'{{"w":{one},"w":{one}}}'.encode(), b"\0" * 8))


def test_a_huge_shape_is_refused_before_anything_is_allocated(store: FileModelDataConnector) -> None:
    with pytest.raises(ModelDataError, match="needs"):
        _open(store, _file({"w": _entry(shape=(1 << 29, 1 << 30))}, b"\0" * 8))


@pytest.mark.parametrize(
    "limits",
    [Limits(max_bytes=60), Limits(max_header_bytes=16), Limits(max_tensors=1)],
    ids=["bytes", "header", "tensors"],
)
def test_whatever_is_over_a_limit_is_too_large(tmp_path: Path, limits: Limits) -> None:
    data = _file({"w": _entry(), "v": _entry(offsets=(8, 16))}, b"\0" * 16)
    ref = FileModelDataConnector(tmp_path).push_model_data_to_storage(MODEL, data)
    with pytest.raises(ModelDataError) as caught:
        FileModelDataConnector(tmp_path, limits=limits).open(ref, DataFormat.SAFETENSORS)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE


def test_readers_hold_no_file_descriptors(store: FileModelDataConnector) -> None:
    """A round over thousands of updates must not run out of them."""
    refs = [_write(store, {"w": np.array([float(i)])}) for i in range(20)]
    readers = [store.open(ref, DataFormat.SAFETENSORS) for ref in refs]
    assert [reader.read("w", 0, 1).item() for reader in readers] == [float(i) for i in range(20)]
    # Of the store alone: what an earlier test left open may be closed, as garbage, at any moment.
    assert [file.path for file in psutil.Process().open_files() if store.root in Path(file.path).parents] == []


def test_a_map_ends_with_its_reader_and_the_last_view(store: FileModelDataConnector) -> None:
    ref = _write(store, {"w": np.arange(4.0)})

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(ref.digest)

    reader = store.open(ref, DataFormat.SAFETENSORS)
    view = reader.read("w", 1, 3)
    assert maps() == 1
    reader.close()
    assert maps() == 1
    assert view.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 5.0
    del view
    assert maps() == 0


def test_a_closed_reader_reads_no_more(store: FileModelDataConnector) -> None:
    reader = store.open(_write(store, {"w": np.arange(4.0)}), DataFormat.SAFETENSORS)
    reader.read("w", 0, 1)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read("w", 0, 1)


def test_headers_that_are_the_same_are_read_once_and_mean_the_same(store: FileModelDataConnector) -> None:
    first, second = (_write(store, {"w": np.full(4, value)}) for value in (1.0, 2.0))
    one, other = (store.open(ref, DataFormat.SAFETENSORS) for ref in (first, second))
    assert one.tensors is other.tensors
    assert (one.read("w", 0, 4).tolist(), other.read("w", 0, 4).tolist()) == ([1.0] * 4, [2.0] * 4)


def test_the_same_header_before_a_shorter_file_is_refused_all_the_same(store: FileModelDataConnector) -> None:
    whole = _file({"w": _entry()}, b"\0" * 8)
    store.open(store.push_model_data_to_storage(MODEL, whole), DataFormat.SAFETENSORS)
    cut = store.push_model_data_to_storage(MODEL, whole[:-1])
    with pytest.raises(ModelDataError, match="cut short"):
        store.open(cut, DataFormat.SAFETENSORS)


def test_an_incomplete_model_can_not_be_committed_and_leaves_nothing(store: FileModelDataConnector) -> None:
    with store.writer([("w", (4,), "F64")], DataFormat.SAFETENSORS) as writer:
        writer.write("w", 0, np.ones(3))
        with pytest.raises(ValueError, match="3 of 4 elements"):
            writer.commit()
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_writer_left_by_an_error_leaves_nothing(store: FileModelDataConnector) -> None:
    with pytest.raises(RuntimeError), store.writer([("w", (4,), "F64")], DataFormat.SAFETENSORS) as writer:
        writer.write("w", 0, np.ones(4))
        raise RuntimeError("the round was overtaken")
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_an_error_of_the_callers_own_is_not_taken_for_the_stores(store: FileModelDataConnector) -> None:
    with pytest.raises(OSError, match="mine") as caught, store.writer([("w", (4,), "F64")], DataFormat.SAFETENSORS):
        raise OSError("mine")
    assert type(caught.value) is OSError


@pytest.mark.parametrize(
    ("start", "values"),
    [(1, np.ones(1)), (0, np.ones(5)), (0, np.ones(4, np.float32)), (0, np.ones((2, 2)))],
    ids=["gap", "too long", "dtype", "two-dimensional"],
)
def test_a_piece_that_does_not_fit_is_refused(
    store: FileModelDataConnector, start: int, values: np.ndarray[Any, Any]
) -> None:
    with store.writer([("w", (4,), "F64")], DataFormat.SAFETENSORS) as writer, pytest.raises(ValueError, match="'w'"):
        writer.write("w", start, values)


def test_a_piece_written_twice_is_refused(store: FileModelDataConnector) -> None:
    with store.writer([("w", (4,), "F64")], DataFormat.SAFETENSORS) as writer:
        writer.write("w", 0, np.ones(2))
        with pytest.raises(ValueError, match="2 are written"):
            writer.write("w", 0, np.ones(2))


def test_tensors_may_be_written_in_turns(store: FileModelDataConnector) -> None:
    with store.writer([("a", (4,), "F64"), ("b", (2,), "BF16")], DataFormat.SAFETENSORS) as writer:
        writer.write("a", 0, np.ones(2))
        writer.write("b", 0, np.array([1.5, 2.5], ml_dtypes.bfloat16))
        writer.write("a", 2, np.arange(8.0)[::4])  # not contiguous
        ref = writer.commit()
    with closing(store.open(ref, DataFormat.SAFETENSORS)) as reader:
        assert reader.read("a", 0, 4).tolist() == [1.0, 1.0, 0.0, 4.0]
        assert reader.read("b", 0, 2).tolist() == [1.5, 2.5]


def test_what_is_written_in_the_files_order_is_hashed_on_the_way(
    store: FileModelDataConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a model of gigabytes again only to know its digest would double what a round waits for."""
    tensors: list[TensorSpec] = [("a", (3,), "F64"), ("b", (2, 2), "F32"), ("n", (1,), "I8")]
    pieces: list[tuple[str, int, Any]] = [
        ("a", 0, np.ones(2)),
        ("a", 2, np.ones(1)),
        ("b", 0, np.ones(4, np.float32)),
        ("n", 0, np.ones(1, np.int8)),
    ]
    with store.writer(tensors, DataFormat.SAFETENSORS) as writer:
        for name, start, values in reversed(pieces[2:]):  # out of order: hashed at the end
            writer.write(name, start, values)
        for name, start, values in pieces[:2]:
            writer.write(name, start, values)
        expected = writer.commit()
    monkeypatch.setattr("fedqueue.blobs.digest_of", lambda path: pytest.fail("the file was read again"))
    with store.writer(tensors, DataFormat.SAFETENSORS) as writer:
        for name, start, values in pieces:
            writer.write(name, start, values)
        assert writer.commit() == expected


def test_the_writer_refuses_a_name_given_twice(store: FileModelDataConnector) -> None:
    twice: list[TensorSpec] = [("a", (1,), "F64"), ("a", (1,), "F64")]
    with pytest.raises(ModelDataError, match="must differ"), store.writer(twice, DataFormat.SAFETENSORS):
        pass


def test_a_full_disk_is_the_stores_fault_and_leaves_nothing(store: FileModelDataConnector) -> None:
    """A file size limit makes the kernel refuse writes as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreUnavailable):
            _write(store, {"w": np.zeros(10_000)}, piece=1000)
        with pytest.raises(StoreUnavailable):
            store.push_model_data_to_storage(MODEL, os.urandom(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    assert _write(store, {"w": np.zeros(10_000)}, piece=1000).size_bytes > 80_000


def test_the_first_value_that_is_not_finite_is_named(store: FileModelDataConnector) -> None:
    arrays = {"w": np.array([1.0, np.nan]), "b": np.array([1, -np.inf], ml_dtypes.bfloat16)[:1], "n": np.arange(3)}
    with closing(store.open(_write(store, arrays), DataFormat.SAFETENSORS)) as reader:
        assert find_not_finite(reader, chunk=1) == "w[1] is nan"
    del arrays["w"]
    with closing(store.open(_write(store, arrays), DataFormat.SAFETENSORS)) as reader:
        assert find_not_finite(reader) is None
