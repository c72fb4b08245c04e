"""Combine updates chunk by chunk: bounded memory, a fixed order, the same bytes for any chunk size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np

from tasks.aggregation.dtypes import NUMPY_DTYPES, cast_once, is_float
from tasks.aggregation.errors import NoUpdates, ResultNotFinite, StateUnexpected, UpdateUnusable
from tasks.aggregation.integers import combine_integers, equal_booleans
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Needs, check_params, find_aggregator
from tasks.aggregation.streams import Array, Chunk, TensorSink, TensorSource, TensorSpec, UpdateStream, element_count
from tasks.aggregation.structure import agree_on_structure
from tasks.aggregation.weights import check_weights

DEFAULT_BUDGET_BYTES = 256 * 1024 * 1024

# Larger chunks fall out of the processor's cache between one operation and the next, and get slower, not faster.
_MAX_CHUNK = 1 << 17


@dataclass(frozen=True, slots=True)
class Report:
    """What was combined, and how: enough to do it again."""

    aggregator: str
    params: Mapping[str, Any]
    num_updates: int
    num_examples: float
    weights: tuple[float, ...]  # as applied: sum of weight × value over sum of weights
    tensors: tuple[TensorSpec, ...]
    bytes_read: int

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        return {
            "aggregator": self.aggregator,
            "params": dict(self.params),
            "num_updates": self.num_updates,
            "num_examples": self.num_examples,
            "weights": list(self.weights),
            "tensors": [[name, list(shape), dtype] for name, shape, dtype in self.tensors],
            "bytes_read": self.bytes_read,
        }


def combine_streams(
    aggregator: str,
    params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None,
    sources: Sequence[UpdateStream],
    sink: TensorSink,
    *,
    current: TensorSource | None = None,
    state: Mapping[str, TensorSource] | None = None,
    expected: Sequence[TensorSpec] | None = None,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Write the combination of the updates into `sink`, and report what was done.

    Order: float additions follow the order of `sources`; a round gives them by ascending update id.
    Structure: every update must have exactly the tensors of `expected`, else of `current`, else of most updates.
    Memory: `budget_bytes` at most for the engine's own arrays, whatever the number and size of updates.
    `on_progress(bytes_read)` is called after every chunk; what it raises ends the combination.
    Raises: UnknownAggregator, UnknownParameter, InvalidParameter, StateUnexpected, NoUpdates, ResultNotFinite;
    UpdateUnusable naming the one update without which it could go on. After any of them `sink` holds a part of
    nothing: throw it away. Structure and weights are checked before the first write.
    """
    algorithm = find_aggregator(aggregator)
    checked = check_params(aggregator, params)
    if state:
        raise StateUnexpected(aggregator)
    if not sources:
        raise NoUpdates
    check_weights(sources)
    if expected is None and current is not None:
        expected = current.tensors
    tensors = agree_on_structure(sources, expected)
    needs = algorithm.needs(checked, sources)
    bytes_read = 0
    for chunk, dtype in _chunks(tensors, tuple(sources), _chunk_size(needs, budget_bytes)):
        sink.write(chunk.tensor, chunk.start, _combine_chunk(algorithm, checked, needs, chunk, dtype))
        bytes_read += chunk.size * NUMPY_DTYPES[dtype].itemsize * len(sources)
        if on_progress is not None:
            on_progress(bytes_read)
    return Report(
        aggregator=aggregator,
        params=checked.model_dump(mode="json"),
        num_updates=len(sources),
        num_examples=fsum(update.num_examples for update in sources),
        weights=needs.weights,
        tensors=tensors,
        bytes_read=bytes_read,
    )


def _chunk_size(needs: Needs, budget_bytes: int) -> int:
    """Elements a chunk: the algorithm's float64 arrays and the outcome in its own dtype fit the budget."""
    return max(1, min(_MAX_CHUNK, budget_bytes // (8 * (needs.arrays + 1))))


def _chunks(
    tensors: Sequence[TensorSpec], updates: tuple[UpdateStream, ...], chunk_size: int
) -> Iterator[tuple[Chunk, str]]:
    for name, shape, dtype in tensors:
        size = element_count(shape)
        for start in range(0, size, chunk_size):
            yield Chunk(updates, name, start, min(start + chunk_size, size)), dtype


def _combine_chunk(algorithm: Aggregator, params: AggregatorParams, needs: Needs, chunk: Chunk, dtype: str) -> Array:
    target = NUMPY_DTYPES[dtype]
    _check_lengths(chunk, target)
    if dtype == "BOOL":
        return equal_booleans(chunk)
    if not is_float(dtype):
        return combine_integers(params.integers, needs, chunk, target)
    # Infinities are looked for afterwards, and become an error that says where they come from.
    with np.errstate(over="ignore", invalid="ignore"):
        combined = cast_once(algorithm.combine_chunk(params, needs, chunk), target)
    finite = np.isfinite(combined)
    if not finite.all():
        _raise_not_finite(chunk, int(np.argmin(finite)), dtype)
    return combined


def _check_lengths(chunk: Chunk, dtype: np.dtype[Any]) -> None:
    """A source that hands out other elements than it declared must not broadcast its way in."""
    for index, update in enumerate(chunk.updates):
        values = chunk.raw(index)
        if values.shape != (chunk.size,) or values.dtype != dtype:
            raise UpdateUnusable(
                index,
                "SHAPE",
                f"tensor {chunk.tensor!r} gave {list(values.shape)} of {values.dtype} for elements "
                f"{chunk.start} to {chunk.stop} of {dtype}",
                update.label,
            )


def _raise_not_finite(chunk: Chunk, element: int, dtype: str) -> None:
    for index, update in enumerate(chunk.updates):
        values = chunk.raw(index)
        finite = np.isfinite(values)
        if not finite.all():
            at = int(np.argmin(finite))
            raise UpdateUnusable(
                index, "NOT_FINITE", f"{chunk.tensor}[{chunk.start + at}] is {values[at]}", update.label
            )
    raise ResultNotFinite(chunk.tensor, chunk.start + element, dtype)
