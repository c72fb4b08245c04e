"""Arrays to safetensors bytes and back."""

from __future__ import annotations

import io
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from fedqueue.errors import DataCorrupt, InvalidArgument
from fedqueue.tensors import as_tensors, read_tensors, write_tensors


def written(data: dict[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    write_tensors(file, as_tensors(data, "data"))
    return file.getvalue()


EVERY_DTYPE = {
    f"{at}.{dtype}": np.arange(3 + at).astype(dtype)
    for at, dtype in enumerate(
        ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ml_dtypes.bfloat16]
    )
}


def test_the_bytes_equal_those_of_the_safetensors_library() -> None:
    """Whoever writes the same arrays with the library gets the same digest."""
    assert written(EVERY_DTYPE) == safetensors.numpy.save(EVERY_DTYPE)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_every_shape_comes_back_as_it_went(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    (back,) = read_tensors(bytearray(written({"w": array}))).values()
    assert back.shape == shape
    assert back.tolist() == array.tolist()


def test_bfloat16_comes_back_as_bfloat16() -> None:
    array = np.array([1.5, -2.0, 3.0], ml_dtypes.bfloat16)
    back = read_tensors(bytearray(written({"w": array})))["w"]
    assert back.dtype == array.dtype
    assert back.astype(float).tolist() == [1.5, -2.0, 3.0]


def test_views_and_other_byte_orders_are_written_by_value() -> None:
    """A transposed or big-endian array's memory is not what the format stores."""
    array = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=">f4").T
    back = read_tensors(bytearray(written({"w": array})))["w"]
    assert back.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert back.dtype == np.dtype("<f4")


def test_what_comes_back_may_be_trained_on_in_place() -> None:
    back = read_tensors(bytearray(written({"w": np.ones(2)})))["w"]
    back += 1
    assert back.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("data", "at"),
    [
        ({}, "data"),
        ({"w": np.array(["a"])}, "data['w']"),
        ({"w": np.array([1j])}, "data['w']"),
        ({"w": np.array([None])}, "data['w']"),
        ({"__metadata__": np.ones(1)}, "data"),
        ({3: np.ones(1)}, "data"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_by_name(data: dict[Any, Any], at: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        as_tensors(data, "data")
    assert refused.value.field == at


def with_header(header: object, values: bytes = b"\0" * 8) -> bytearray:
    text = json.dumps(header).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + values)


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(),
        bytearray(b"\xff" * 7),
        bytearray(b"\xff" * 64),
        with_header([]),
        with_header({"w": {"dtype": "F32", "shape": [2]}}),
        with_header({"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}),
        with_header({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        with_header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        with_header({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}),
    ],
)
def test_a_header_that_lies_is_found_out(buffer: bytearray) -> None:
    with pytest.raises(DataCorrupt, match="safetensors"):
        read_tensors(buffer)


def test_a_files_own_metadata_is_no_tensor() -> None:
    buffer = with_header({"__metadata__": {"by": "x"}, "w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}})
    assert list(read_tensors(buffer)) == ["w"]
