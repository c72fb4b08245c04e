"""What an aggregator keeps between rounds: float64 tensors beside the model's, and a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.aggregation.chunks import state_name
from tasks.aggregation.dtypes import is_float
from tasks.aggregation.errors import StateUnexpected, StateUnusable
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, find_aggregator
from tasks.aggregation.streams import FloatArray, TensorSink, TensorSource, TensorSpec, element_count


def state_tensors(
    aggregator: str,
    params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None,  # noqa: ARG001  # may matter to a plugin's
    tensors: Sequence[TensorSpec],
) -> tuple[TensorSpec, ...]:
    """What the aggregator leaves to the next round of a model of those tensors; empty if it keeps nothing.

    `m/w` of shape like `w` for each state `m` and float tensor `w`, then the numbers (`t`, `clip`). All are float64,
    so that a round after a restart computes with the very numbers that the one before left.
    Raises: UnknownAggregator.
    """
    return _specs(find_aggregator(aggregator), tensors)


def check_state(algorithm: Aggregator, tensors: Sequence[TensorSpec], state: TensorSource) -> None:
    """Return if it is what the aggregator left for such a model. Raises: StateUnexpected, StateUnusable."""
    wanted = {name: (tuple(shape), dtype) for name, shape, dtype in _specs(algorithm, tensors)}
    if not wanted:
        raise StateUnexpected(algorithm.name)
    given = {name: (tuple(shape), dtype) for name, shape, dtype in state.tensors}
    for name in [*wanted, *given]:
        if name not in given:
            raise StateUnusable(algorithm.name, f"lacks {name!r}")
        if name not in wanted:
            raise StateUnusable(algorithm.name, f"has {name!r}, which is not its own")
        if given[name] != wanted[name]:
            raise StateUnusable(algorithm.name, f"has {name!r} of {given[name]} where {wanted[name]} is expected")


def read_scalars(algorithm: Aggregator, state: TensorSource | None) -> dict[str, FloatArray]:
    """The numbers kept by the last round, each in its shape; zeros in the first round."""
    scalars = {}
    for name, shape in algorithm.scalars.items():
        size = element_count(shape)
        values = np.zeros(size, np.float64) if state is None else np.array(state.read(name, 0, size), np.float64)
        scalars[name] = values.reshape(shape)
    return scalars


def write_scalars(algorithm: Aggregator, scalars: Mapping[str, FloatArray | float], sink: TensorSink) -> None:
    """The numbers for the next round. Raises: ValueError for others than the aggregator declared."""
    if scalars.keys() != algorithm.scalars.keys():
        raise ValueError(f"{algorithm.name} keeps {sorted(algorithm.scalars)}, its `needs` gave {sorted(scalars)}")
    for name, shape in algorithm.scalars.items():
        values = np.asarray(scalars[name], np.float64)
        if values.shape != shape:
            raise ValueError(f"{algorithm.name}: {name!r} has shape {values.shape}, declared is {shape}")
        sink.write(name, 0, values.reshape(-1))


def _specs(algorithm: Aggregator, tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    beside = [
        (state_name(name, tensor), tuple(shape), "F64")
        for name in algorithm.state
        for tensor, shape, dtype in tensors
        if is_float(dtype)
    ]
    return (*beside, *((name, shape, "F64") for name, shape in algorithm.scalars.items()))
