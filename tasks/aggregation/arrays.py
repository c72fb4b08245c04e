"""The engine on arrays in memory: for notebooks, plugins and tests, without store, database or broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.aggregation.dtypes import NAMES, NUMPY_DTYPES
from tasks.aggregation.engine import DEFAULT_BUDGET_BYTES, Report, combine_streams
from tasks.aggregation.errors import CurrentUnusable, UpdateUnusable
from tasks.aggregation.kernels import Engine
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import find_aggregator
from tasks.aggregation.streams import Array, TensorSource, TensorSpec, UpdateStream


@dataclass(frozen=True, slots=True)
class UpdateArrays:
    """One client's update as arrays by name (also a Flower ArrayRecord), and what weighs it."""

    arrays: Mapping[str, Array]
    num_examples: float = 1.0
    base: Mapping[str, Array] | None = None  # what it was trained from; None: the current model
    staleness: int = 0
    num_steps: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Combined:
    """The combined model; `state` is what to hand back next round (None where the aggregator keeps none)."""

    arrays: dict[str, Array]
    state: dict[str, Array] | None
    report: Report


def combine(
    aggregator: str,
    params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None,
    updates: Sequence[UpdateArrays],
    current: Mapping[str, Array] | None = None,
    state: Mapping[str, Array] | None = None,
    *,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    threads: int | None = None,
    engine: Engine | str = Engine.AUTO,
    noise_seed: bytes | None = None,
) -> Combined:
    """The combination of the updates, summed in the order given, by the same engine that the rounds run.

    The arrays given are never changed, the ones returned share nothing with them. A parameter that names a model
    (`root_update`) is given the model's arrays.
    Raises: as `combine_streams`; after an error there is no outcome at all.
    """
    bases: dict[int, ArraySource] = {}  # one source for those that share a base: it is read once
    streams = []
    for index, update in enumerate(updates):
        if update.base is not None and id(update.base) not in bases:
            bases[id(update.base)] = ArraySource(update.base, None, f"the base of update {index}")
        streams.append(
            UpdateStream(
                ArraySource(update.arrays, index),
                num_examples=update.num_examples,
                base=None if update.base is None else bases[id(update.base)],
                staleness=update.staleness,
                num_steps=update.num_steps,
                loss=update.loss,
            )
        )
    params, references = _split_references(aggregator, params)
    sink, state_sink = ArraySink(), ArraySink()
    report = combine_streams(
        aggregator,
        params,
        streams,
        sink,
        current=None if current is None else ArraySource(current, None),
        state=ArraySource(state, None, "the state") if state else None,
        state_sink=state_sink,
        references=references,
        budget_bytes=budget_bytes,
        threads=threads,
        engine=engine,
        noise_seed=noise_seed,
    )
    kept = state_sink.arrays(report.state) if report.state else None
    return Combined(sink.arrays(report.tensors), kept, report)


def _split_references(
    aggregator: str, params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None
) -> tuple[Mapping[str, Any] | Sequence[Any] | AggregatorParams | None, dict[str, TensorSource]]:
    """(the parameters, each model among them replaced by its parameter's name; the models)."""
    if not isinstance(params, Mapping):
        return params, {}
    models: dict[str, TensorSource] = {
        name: ArraySource(params[name], None, f"the model {name!r}")
        for name in find_aggregator(aggregator).references
        if isinstance(params.get(name), Mapping)
    }
    return {name: name if name in models else value for name, value in params.items()}, models


class ArraySource:
    """Arrays as the engine reads them: of the update at position `index`, or (None) of `what`.

    Raises: UpdateUnusable (DTYPE), CurrentUnusable for an array that is no tensor.
    """

    def __init__(self, arrays: Mapping[str, Array], index: int | None, what: str = "the current model") -> None:
        self._flat: dict[str, Array] = {}
        tensors = []
        for name, given in arrays.items():
            # Flower's Array and frameworks' tensors offer themselves as numpy's.
            offered = getattr(given, "numpy", None)
            array = np.asarray(offered() if callable(offered) else given)
            native = array.dtype.newbyteorder("=")
            if native not in NAMES:
                reason = f"tensor {name!r} is of dtype {array.dtype}; known are {', '.join(NUMPY_DTYPES)}"
                raise CurrentUnusable(reason, what) if index is None else UpdateUnusable(index, "DTYPE", reason)
            tensors.append((name, array.shape, NAMES[native]))
            self._flat[name] = np.ascontiguousarray(array, dtype=native).reshape(-1)
        self._tensors = tuple(tensors)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every array."""
        return self._tensors

    def read(self, name: str, start: int, stop: int) -> Array:
        """A view of the array's elements."""
        return self._flat[name][start:stop]


class ArraySink:
    """Keeps what the engine writes, until it has written all of it."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[Array]] = {}

    def write(self, name: str, start: int, values: Array) -> None:  # noqa: ARG002  # pieces come in ascending order
        """Keep a copy: a piece may be a view of an update."""
        self._pieces.setdefault(name, []).append(values.copy())

    def arrays(self, tensors: Sequence[TensorSpec]) -> dict[str, Array]:
        """Every tensor whole, in its shape."""
        whole: dict[str, Array] = {}
        for name, shape, dtype in tensors:
            pieces = self._pieces.get(name, [])
            flat = np.concatenate(pieces) if pieces else np.empty(0, NUMPY_DTYPES[dtype])
            whole[name] = flat.reshape(shape)
        return whole
