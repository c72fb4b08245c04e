"""FMA's JSON model data: a flat list of numbers, or a list of layers.

A flat list is one tensor called "values"; layers are tensors "0", "1", … each a number or a rectangular nested list.
The names tell the two forms apart, so a model is written back in the form it came in. Every number is read as float64,
whole ones too: [1, 2, 4] and [5, 2, 3] average to [3.0, 2.0, 3.5].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from connectors.errors import ModelDataError
from connectors.records import ReasonCode, TensorSpec
from connectors.storage.limits import Limits

FLAT = "values"

_PIECE = 1 << 16
_MAX_DIMENSIONS = 64  # numpy's own limit
_KINDS = {str: "text", bool: "true or false", type(None): "null", dict: "an object"}

FloatArray = NDArray[np.float64]


def parse_fma_json(text: bytes, limits: Limits) -> dict[str, FloatArray]:
    """The tensors by name, in order.

    Raises: ModelDataError: CORRUPT (no JSON), SCHEMA (something else than numbers in lists), SHAPE (ragged within a
    layer), NOT_FINITE, TOO_LARGE; the reason names the place, as in [1][2].
    """
    if len(text) > limits.max_json_bytes:
        raise too_large(len(text), limits)
    try:
        # Whole numbers straight to float, too: an integer of a million digits is then infinite, not a slow parse.
        data = json.loads(text.decode(), parse_int=float, parse_constant=_refuse_constant)
    except RecursionError:
        raise ModelDataError(ReasonCode.SCHEMA, "the lists are nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise ModelDataError(ReasonCode.CORRUPT, f"not JSON: {error}") from error
    if not isinstance(data, list):
        _refuse_kind(data, "")
    if _all_numbers(data):
        return {FLAT: _as_array(data, "")}
    if len(data) > limits.max_tensors:
        raise ModelDataError(ReasonCode.TOO_LARGE, f"{len(data)} layers, the limit is {limits.max_tensors}")
    layers = {}
    for position, layer in enumerate(data):
        pieces: list[FloatArray] = []
        shape = _collect(layer, f"[{position}]", 0, pieces)
        flat = np.concatenate(pieces) if pieces else np.empty(0, np.float64)
        layers[str(position)] = flat.reshape(shape)
    return layers


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


def _collect(value: Any, path: str, depth: int, pieces: list[FloatArray]) -> tuple[int, ...]:
    """Append the value's numbers to `pieces`, in order; its shape."""
    if type(value) is float:
        if not isfinite(value):
            _refuse_size(path)
        pieces.append(np.array([value]))
        return ()
    if not isinstance(value, list):
        _refuse_kind(value, path)
    if depth == _MAX_DIMENSIONS:
        raise ModelDataError(ReasonCode.SCHEMA, f"{path} is nested deeper than {_MAX_DIMENSIONS} lists")
    if _all_numbers(value):
        pieces.append(_as_array(value, path))
        return (len(value),)
    first = _collect(value[0], f"{path}[0]", depth + 1, pieces)
    for position in range(1, len(value)):
        here = f"{path}[{position}]"
        shape = _collect(value[position], here, depth + 1, pieces)
        if shape != first:
            raise ModelDataError(
                ReasonCode.SHAPE,
                f"{here} has shape {list(shape)} where {path}[0] has {list(first)}: a layer is rectangular",
            )
    return (len(value), *first)


def _all_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) <= {float}


def _as_array(values: list[float], path: str) -> FloatArray:
    array = np.array(values, np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        _refuse_size(f"{path}[{int(np.argmin(finite))}]")
    return array


def _as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        # bfloat16 has no Python number of its own.
        return value.astype(np.float64).tolist() if value.dtype.kind in "fV" else value.tolist()
    raise TypeError(f"{type(value).__name__} is neither a number nor a list")


def _refuse_kind(value: Any, path: str) -> NoReturn:
    kind = _KINDS.get(type(value), "a number")
    raise ModelDataError(
        ReasonCode.SCHEMA, f"{path or 'the data'} is {kind}: model data is a list of numbers, or of lists of numbers"
    )


def _refuse_size(path: str) -> NoReturn:
    raise ModelDataError(ReasonCode.NOT_FINITE, f"{path} is beyond what a float64 can hold")


def _refuse_constant(token: str) -> NoReturn:
    raise ModelDataError(ReasonCode.NOT_FINITE, f"the data contains {token}")
