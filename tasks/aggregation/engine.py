"""Combine updates chunk by chunk: bounded memory, a fixed order, the same bytes on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np

from tasks.aggregation.chunks import Chunk, state_name
from tasks.aggregation.dtypes import NUMPY_DTYPES, cast_once, is_float
from tasks.aggregation.errors import NoUpdates, TensorMissing
from tasks.aggregation.integers import combine_integers, equal_booleans
from tasks.aggregation.kernels import Engine
from tasks.aggregation.kernels.choice import kernels_for
from tasks.aggregation.measuring import measure
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Needs, check_params, find_aggregator
from tasks.aggregation.starting import StartFrom, starting_point
from tasks.aggregation.state import check_state, read_scalars, state_tensors, write_scalars
from tasks.aggregation.streams import (
    Array,
    FloatArray,
    TensorSink,
    TensorSource,
    TensorSpec,
    UpdateStream,
    element_count,
)
from tasks.aggregation.structure import agree_on_structure, senders_of
from tasks.aggregation.threads import default_threads
from tasks.aggregation.walk import Walk, raise_not_finite
from tasks.aggregation.weights import check_weights

DEFAULT_BUDGET_BYTES = 256 * 1024 * 1024

# Elements: smaller chunks cost an interpreter's round for every update, larger ones fall out of the processor's cache
# between one operation and the next.
_MAX_CHUNK = 1 << 18

# Of the budget, for what is not counted by the element: the kernels' tiles, what the allocator keeps, threads' stacks.
# Where all that may wait for the writer does wait, on a busy machine, that came to 2.7 MiB.
_RESERVE = 4 * 1024 * 1024


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
    state: tuple[TensorSpec, ...] = ()  # what was written into the state sink
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the aggregator says of the round: picks, epsilon, …

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        return {
            "aggregator": self.aggregator,
            "params": dict(self.params),
            "num_updates": self.num_updates,
            "num_examples": self.num_examples,
            "weights": list(self.weights),
            "tensors": _specs_as_json(self.tensors),
            "bytes_read": self.bytes_read,
            "state": _specs_as_json(self.state),
            "facts": dict(self.facts),
        }


def combine_streams(
    aggregator: str,
    params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None,
    sources: Sequence[UpdateStream],
    sink: TensorSink,
    *,
    current: TensorSource | None = None,
    state: TensorSource | None = None,
    state_sink: TensorSink | None = None,
    references: Mapping[str, TensorSource] | None = None,
    expected: Sequence[TensorSpec] | None = None,
    without_model: StartFrom = StartFrom.NOTHING,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    threads: int | None = None,
    engine: Engine | str = Engine.AUTO,
    noise_seed: bytes | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Write the combination of the updates into `sink`, and report what was done.

    Order: float additions follow the order of `sources`; a round gives them by ascending update id. Threads, chunks
    and the engine change nothing but the time.
    Structure: every update must have exactly the tensors of `expected`, else of `current`, else of most updates.
    State: `state` is what the last round left, None in the first; `state_sink` takes `state_tensors(…)` for the next.
    `references`: the models that parameters name (`root_update`). `without_model`: what an aggregator of deltas does
    with neither `current` nor a base: refuse, or (a model's first round) take the mean weighted by num_examples;
    then no state is written.
    `noise_seed`: 32 bytes for noise that can be computed again; None: nobody knows them.
    Memory: `budget_bytes` at most for the engine's own arrays, whatever the number and size of updates.
    `on_progress(bytes_read)` is called after every chunk, by the caller's thread; what it raises ends the combination.
    Raises: UnknownAggregator, UnknownParameter, InvalidParameter, StateUnexpected, StateUnusable, NoUpdates,
    TooFewUpdates, NothingToStartFrom, ReferenceMissing, CurrentUnusable, TensorMissing, OutOfBudget,
    ResultNotFinite; UpdateUnusable naming the one update without which it could go on. After any of them `sink`
    holds a part of nothing: throw it away. Structure and weights are checked before the first write.
    """
    algorithm = find_aggregator(aggregator)
    checked = check_params(aggregator, params)
    if not sources:
        raise NoUpdates
    check_weights(sources)
    if expected is None and current is not None:
        expected = current.tensors
    updates = tuple(sources)
    tensors = agree_on_structure(updates, expected, checked.keys)
    if state is not None:
        check_state(algorithm, tensors, state)
    start = starting_point(algorithm, updates, tensors, current, references or {}, without_model)
    num_bytes = sum(element_count(shape) * NUMPY_DTYPES[dtype].itemsize for _, shape, dtype in tensors) * len(updates)
    walk = Walk(
        updates=updates,
        tensors=tensors,
        senders=senders_of(updates, tensors),
        kernels=kernels_for(Engine(engine), num_bytes),
        current=start.current,
        state=state,
        references=references or {},
        threads=threads or default_threads(),
        on_progress=on_progress,
    )
    combining = start.algorithm
    inputs = Inputs(updates, read_scalars(combining, state), state is None, budget_bytes, noise_seed)
    settled = combining.needs(start.params or checked, inputs)
    needs = settled if isinstance(settled, Needs) else measure(settled, walk, budget_bytes)
    _combine(combining, start.params or checked, needs, walk, sink, state_sink, budget_bytes)
    written: tuple[TensorSpec, ...] = ()
    if state_sink is not None and combining is algorithm:
        write_scalars(algorithm, needs.scalars, state_sink)
        written = state_tensors(aggregator, checked, tensors)
    return Report(
        aggregator=aggregator,
        params=checked.model_dump(mode="json"),
        num_updates=len(updates),
        num_examples=fsum(update.num_examples for update in updates),
        weights=needs.weights,
        tensors=tensors,
        bytes_read=walk.bytes_read,
        state=written,
        facts={**start.facts, **needs.facts},
    )


def _combine(
    algorithm: Aggregator,
    params: AggregatorParams,
    needs: Needs,
    walk: Walk,
    sink: TensorSink,
    state_sink: TensorSink | None,
    budget_bytes: int,
) -> None:
    def do(chunk: Chunk) -> Array:
        return _combine_chunk(algorithm, params, needs, chunk)

    # Enough that a thread never waits for the one that writes.
    ahead = 4 * walk.threads if walk.threads > 1 else 1
    size = _chunk_size(needs, len(algorithm.state), budget_bytes, walk.threads, ahead)
    # Closed even when writing or progress fails: no thread may read on once the caller lets go of the updates.
    with closing(walk.run(do, walk.tensors, size, ahead)) as done:
        for chunk, combined in done:
            sink.write(chunk.tensor, chunk.start, combined)
            if state_sink is not None:
                for name in algorithm.state if is_float(chunk.dtype) else ():
                    state_sink.write(state_name(name, chunk.tensor), chunk.start, chunk.kept[name])


def _chunk_size(needs: Needs, kept: int, budget_bytes: int, threads: int, ahead: int) -> int:
    """Elements a chunk: what each thread computes with, and what waits to be written, fit the budget."""
    at_once = 8 * (threads * needs.arrays + ahead * (1 + kept))
    return max(1, min(_MAX_CHUNK, max(budget_bytes - _RESERVE, budget_bytes // 2) // at_once))


def _combine_chunk(algorithm: Aggregator, params: AggregatorParams, needs: Needs, chunk: Chunk) -> Array:
    if not chunk.updates:
        return _taken_over(algorithm, chunk)
    if algorithm.floats_only and not is_float(chunk.dtype):
        return chunk.raw_current()
    if chunk.dtype == "BOOL":
        return equal_booleans(chunk)
    target = NUMPY_DTYPES[chunk.dtype]
    if not is_float(chunk.dtype):
        return combine_integers(params.integers, needs.weights, chunk, target)
    # Infinities are looked for afterwards, and become an error that says where they come from.
    with np.errstate(over="ignore", invalid="ignore"):
        combined = algorithm.combine_chunk(params, needs, chunk)
        if combined.dtype != target:
            combined = cast_once(combined, target)
    finite = np.isfinite(combined)
    if not finite.all():
        raise_not_finite(chunk, int(np.argmin(finite)))
    for name in algorithm.state:
        values: FloatArray = chunk.kept[name]
        if not np.isfinite(values).all():
            raise_not_finite(chunk, int(np.argmin(np.isfinite(values))))
    return combined


def _taken_over(algorithm: Aggregator, chunk: Chunk) -> Array:
    """A tensor that nobody sent stays as it is, and so does what was kept of it. Raises: TensorMissing."""
    if chunk.current_source is None:
        raise TensorMissing(chunk.tensor)
    for name in algorithm.state if is_float(chunk.dtype) else ():
        chunk.keep(name, chunk.state(name))
    return chunk.current_source.read(chunk.tensor, chunk.start, chunk.stop)


def _specs_as_json(tensors: Sequence[TensorSpec]) -> list[list[Any]]:
    return [[name, list(shape), dtype] for name, shape, dtype in tensors]
