"""Named arrays as safetensors bytes and back, bfloat16 included.

The safetensors library is not used here: its numpy side can't read bfloat16, and its writer replaces the file it is
given. The format is an 8-byte little-endian length, a JSON header, the tensors' bytes. Files written here equal the
library's, byte for byte (tested).
"""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedqueue.errors import DataCorrupt, InvalidArgument

Array = NDArray[Any]

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
# The library's order: wider first, so that every tensor starts on a multiple of its item's size.
_ORDER: Final = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
_LONGEST_HEADER: Final = 100_000_000
# A type numpy lacks, another device's tensor; and what numpy's own reader, by which Flower's arrays are opened, makes
# of bytes that are no array: a header that is no Python, or asks for more memory than there is.
_GIVES_NONE: Final = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(tokenize.TokenError, zipfile.BadZipFile),
)


def as_tensors(data: Mapping[str, ArrayLike], field: str) -> dict[str, Array]:
    """The arrays as they will be written: dense, little-endian, of a dtype the format knows.

    Raises: InvalidArgument naming the tensor.
    """
    if not data:
        raise InvalidArgument(field, "holds no arrays")
    return {name: _as_tensor(name, values, field) for name, values in data.items()}


def _as_tensor(name: str, values: ArrayLike, field: str) -> Array:
    if not isinstance(name, str) or not name or name == "__metadata__":
        raise InvalidArgument(field, f"{name!r} can't name a tensor")
    array = _as_array(name, values, field)
    # Floats and integers of the other byte order are the same numbers; their bytes are not.
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    if dtype not in _NAMES:
        raise InvalidArgument(f"{field}[{name!r}]", f"dtype {array.dtype} is none of {', '.join(map(str, _NAMES))}")
    return np.asarray(array, dtype=dtype, order="C")


def _as_array(name: str, values: ArrayLike, field: str) -> Array:
    """numpy's array of the values: also of Flower's Array and of frameworks' tensors, which offer themselves so."""
    offered = getattr(values, "numpy", None)
    if not callable(offered):
        return np.asarray(values)
    try:
        return np.asarray(offered())
    except _GIVES_NONE as error:
        raise InvalidArgument(f"{field}[{name!r}]", f"gives no array: {error}") from error


def write_tensors(file: BinaryIO, tensors: Mapping[str, Array]) -> None:
    """Write the arrays (as `as_tensors` made them) in the library's order. Memory: nothing beyond the arrays."""
    names = sorted(tensors, key=lambda name: (_ORDER.index(_NAMES[tensors[name].dtype]), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        array = tensors[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in names:
        if tensors[name].nbytes:
            file.write(tensors[name].reshape(-1).view(np.uint8).data)


def read_tensors(buffer: bytearray) -> dict[str, Array]:
    """The arrays in those bytes: views of the buffer, writable, in the file's order.

    Raises: DataCorrupt when the header lies.
    """
    size = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or size > min(len(buffer) - 8, _LONGEST_HEADER):
        raise DataCorrupt("this is no safetensors file: its header is longer than the file")
    try:
        header = json.loads(buffer[8 : 8 + size])
        header.pop("__metadata__", None)
        return {name: _tensor(buffer, 8 + size, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise DataCorrupt(f"this safetensors file's header can't be used: {error}") from error


def _tensor(buffer: bytearray, base: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Array:
    kind = _DTYPES[dtype]
    start, end = data_offsets
    count = math.prod(shape)
    if not 0 <= start <= end <= len(buffer) - base or count * kind.itemsize != end - start:
        raise ValueError(f"shape {shape} of {dtype} does not fill bytes {start} to {end}")
    return np.frombuffer(buffer, kind, count, base + start).reshape(shape)
