"""FMA's JSON model data: a flat list of numbers, or a list of layers.

A flat list is one tensor called "values"; layers are tensors "0", "1", … each a number or a rectangular nested list.
The names tell the two forms apart, so a model is written back in the form it came in. Every number is read as float64,
whole ones too: [1, 2, 4] and [5, 2, 3] average to [3.0, 2.0, 3.5].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from connectors.errors import ModelDataError
from connectors.records import ReasonCode, TensorSpec
from connectors.storage.limits import Limits
from connectors.storage.number_lists import FloatArray, NumberLists

FLAT = "values"

_PIECE = 1 << 16

__all__ = ["FLAT", "FloatArray", "check_fma_names", "fma_json_of", "format_fma_json", "parse_fma_json", "too_large"]


def parse_fma_json(text: bytes, limits: Limits) -> dict[str, FloatArray]:
    """The tensors by name, in order.

    Raises: ModelDataError: CORRUPT (no JSON), SCHEMA (something else than numbers in lists), SHAPE (ragged within a
    layer), NOT_FINITE, TOO_LARGE; the reason names the place, as in [1][2].
    """
    if len(text) > limits.max_json_bytes:
        raise too_large(len(text), limits)
    try:
        found = NumberLists(text, limits.max_tensors)
    except MemoryError:
        reason = f"{len(text)} bytes of JSON take more memory than there is"
        raise ModelDataError(ReasonCode.TOO_LARGE, reason) from None
    if found.flat is not None:
        return {FLAT: found.flat}
    return {str(position): layer for position, layer in enumerate(found.layers)}


def fma_json_of(data: Any, limits: Limits) -> dict[str, FloatArray]:
    """The same for lists (of lists) of numbers or arrays that are already in memory."""
    try:
        text = json.dumps(data, default=_as_lists)
    except RecursionError:
        raise ModelDataError(ReasonCode.SCHEMA, "the lists are nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ModelDataError(ReasonCode.SCHEMA, f"not lists of numbers: {error}") from error
    return parse_fma_json(text.encode(), limits)


def check_fma_names(tensors: Sequence[TensorSpec]) -> None:
    """Return if FMA's JSON can hold these tensors and give them back. Raises: ModelDataError (SCHEMA, DTYPE)."""
    names = [name for name, _shape, _dtype in tensors]
    for name, _shape, dtype in tensors:
        if dtype != "F64":
            raise ModelDataError(ReasonCode.DTYPE, f"tensor {name!r} is of dtype {dtype}: JSON holds F64 alone")
    if names == [FLAT] and len(tensors[0][1]) == 1:
        return
    if not names or names != [str(position) for position in range(len(names))]:
        raise ModelDataError(
            ReasonCode.SCHEMA, f'JSON holds one 1-D tensor "{FLAT}", or layers "0", "1", … in order, not {names[:5]}'
        )
    if all(shape == () for _name, shape, _dtype in tensors):
        raise ModelDataError(ReasonCode.SCHEMA, f'layers that are all numbers are a flat list: call it "{FLAT}"')


def format_fma_json(arrays: Mapping[str, FloatArray]) -> Iterator[str]:
    """The text by pieces; every float in the shortest form that reads back as itself.

    Raises: ModelDataError (NOT_FINITE): JSON has no word for it.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelDataError(ReasonCode.NOT_FINITE, f"tensor {name!r} has a value that is not finite")
    if list(arrays) == [FLAT]:
        yield from _format(arrays[FLAT])
        return
    yield "["
    for position, array in enumerate(arrays.values()):
        if position:
            yield ", "
        yield from _format(array)
    yield "]"


def too_large(size: int, limits: Limits) -> ModelDataError:
    """The refusal of JSON over the limit."""
    return ModelDataError(ReasonCode.TOO_LARGE, f"{size} bytes of JSON, the limit is {limits.max_json_bytes}")


def _format(array: FloatArray) -> Iterator[str]:
    if array.size <= _PIECE:
        yield json.dumps(array.tolist())
        return
    yield "["
    step = _PIECE if array.ndim == 1 else 1
    for start in range(0, len(array), step):
        if start:
            yield ", "
        if array.ndim == 1:
            yield json.dumps(array[start : start + step].tolist())[1:-1]
        else:
            yield from _format(array[start])
    yield "]"


def _as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        # bfloat16 has no Python number of its own.
        return value.astype(np.float64).tolist() if value.dtype.kind in "fV" else value.tolist()
    raise TypeError(f"{type(value).__name__} is neither a number nor a list")
