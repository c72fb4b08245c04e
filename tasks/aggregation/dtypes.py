"""The element types that the engine combines, and the one rounding from float64 back to them."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# By their safetensors names. connectors.storage has the same table for files; a test holds them together.
NUMPY_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES: Final[dict[np.dtype[Any], str]] = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


def is_float(name: str) -> bool:
    """Whether tensors of that dtype are combined in float64 and cast once."""
    return name in ("F64", "F32", "F16", "BF16")


def cast_once(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`values` in `dtype`, each the representable value nearest to it, ties to even; beyond the range: infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == NUMPY_DTYPES["BF16"]:
            return _float32_to_odd(values).astype(dtype)
        return values.astype(dtype)


def _float32_to_odd(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """`values` in float32, every inexact one with its last bit set.

    The way from float64 to bfloat16 leads through float32, and rounding twice picks the wrong neighbour next to
    a tie: 1 + 2**-8 + 2**-40 would become 1. Rounding to odd first leaves the second rounding what it must know.
    Source: Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008.
    """
    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    finite = np.isfinite(values)
    bits -= (finite & (np.abs(back) > np.abs(values))).astype(np.uint32)
    bits |= (finite & (back != values)).astype(np.uint32)
    return nearest
