"""The element types that stored models may have, by their safetensors names."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np

# tasks.aggregation has the same table for arrays; a test holds them together. What is not in it (complex numbers,
# packed 4-bit floats, …) has no defined mean and is refused.
NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
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
NAMES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in NUMPY_DTYPES.items()}

_MOST_ELEMENTS: Final = 1 << 60  # of eight bytes: numpy counts bytes in 63 bits
_MAX_DIMENSIONS: Final = 64  # numpy's own limit


def is_shape(lengths: Sequence[Any]) -> bool:
    """Whether numpy can hold an array of that shape: whole numbers, 0 or more, not too many and not too large."""
    # bool is an int to Python, not to a file format. Empty arrays count without their zeros, as numpy counts them.
    return (
        len(lengths) <= _MAX_DIMENSIONS
        and all(type(length) is int and length >= 0 for length in lengths)
        and prod(length for length in lengths if length) < _MOST_ELEMENTS
    )
