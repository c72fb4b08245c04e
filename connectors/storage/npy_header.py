"""The header of numpy's .npy format, believed only as far as the bytes after it bear it out.

Not by numpy's own reader: it unpickles what it is told to, and sets aside the memory that the header asks for.
Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html (versions 1 to 3)
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, Final

from connectors.errors import ModelDataError
from connectors.records import ReasonCode
from connectors.storage.dtypes import NUMPY_DTYPES, is_shape

NPY_MAGIC: Final = b"\x93NUMPY"

_LENGTHS: Final = {1: 2, 2: 4, 3: 4}  # bytes of the header's length, by version
# Numpy's own limit for files that it does not trust. A shape of 64 dimensions is far below.
_MAX_HEADER: Final = 10_000
_FIELDS: Final = {"descr", "fortran_order", "shape"}

# What numpy calls the dtypes that are read, all little-endian. It has no name for bfloat16: that becomes "V2", as any
# two bytes do, and can't be told from them.
_DTYPES: Final = {dtype.str: name for name, dtype in NUMPY_DTYPES.items() if dtype.kind in "fiub"}


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """One array, as its header has it."""

    shape: tuple[int, ...]
    dtype: str  # by its safetensors name
    fortran: bool  # the first index changes fastest
    data_start: int  # bytes before the elements

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def data_bytes(self) -> int:
        """Bytes of elements."""
        return self.size * NUMPY_DTYPES[self.dtype].itemsize


def read_npy_header(file: BinaryIO, total_bytes: int, name: str) -> NpyHeader:
    """The header that `file` stands before, of an array of `total_bytes` in all, header included.

    Raises: ModelDataError (CORRUPT, DTYPE). Memory: the header, 10,000 bytes at most.
    """
    start = file.read(len(NPY_MAGIC) + 2)
    if len(start) < len(NPY_MAGIC) + 2 or not start.startswith(NPY_MAGIC):
        raise corrupt(name, "it does not begin as .npy does")
    if start[-2] not in _LENGTHS:
        raise corrupt(name, f"it is of version {start[-2]}.{start[-1]}; read are 1 to 3")
    prefix = file.read(_LENGTHS[start[-2]])
    length = int.from_bytes(prefix, "little")
    if length > _MAX_HEADER:
        raise corrupt(name, f"its header claims {length} bytes, the most is {_MAX_HEADER}")
    text = file.read(length)
    if len(text) < length:
        raise corrupt(name, "it ends within its header")
    fields = _parse(text, "utf-8" if start[-2] == 3 else "latin-1", name)
    header = NpyHeader(
        shape=_check_shape(fields["shape"], name),
        dtype=_check_dtype(fields["descr"], name),
        fortran=_check_order(fields["fortran_order"], name),
        data_start=len(start) + len(prefix) + length,
    )
    if header.data_start + header.data_bytes != total_bytes:
        raise corrupt(
            name,
            f"shape {list(header.shape)} of {header.dtype} needs {header.data_bytes} bytes, "
            f"it has {total_bytes - header.data_start}",
        )
    return header


def corrupt(name: str, reason: str) -> ModelDataError:
    """The refusal of an array, or of an archive, that is not what it says it is."""
    return ModelDataError(ReasonCode.CORRUPT, f"array {name!r}: {reason}")


def _parse(text: bytes, encoding: str, name: str) -> dict[str, Any]:
    try:
        fields = ast.literal_eval(text.decode(encoding).strip())
    # The last two: brackets within brackets within brackets.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise corrupt(name, f"its header is no Python literal: {type(error).__name__}") from None
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise corrupt(name, f"its header must have exactly the fields {', '.join(sorted(_FIELDS))}")
    return fields


def _check_shape(shape: Any, name: str) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not is_shape(shape):
        raise corrupt(name, "it has no proper shape")
    return shape


def _check_dtype(descr: Any, name: str) -> str:
    if not isinstance(descr, str) or descr not in _DTYPES:
        raise ModelDataError(
            ReasonCode.DTYPE, f"array {name!r} is of dtype {str(descr)[:80]!r}; read are {', '.join(_DTYPES)}"
        )
    return _DTYPES[descr]


def _check_order(fortran: Any, name: str) -> bool:
    if not isinstance(fortran, bool):
        raise corrupt(name, "its fortran_order is neither True nor False")
    return fortran
