"""What the engine reads from and writes to: tensors by pieces, wherever they lie.

Structurally these are the readers and writers of `connectors.model_data`, so a stored model fits as it is; the
engine itself knows no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

# (name, shape, dtype), dtype by its safetensors name.
TensorSpec = tuple[str, tuple[int, ...], str]


class TensorSource(Protocol):
    """One model's tensors, read by pieces, by several threads at once."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor."""

    def read(self, name: str, start: int, stop: int) -> Array:
        """Elements [start, stop) of the flattened tensor, 1-D; never written to."""


class TensorSink(Protocol):
    """Where the combined model goes. Nobody may use what is in it before `combine_streams` has returned."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Put the flattened tensor's elements from `start` on: every element comes once, ascending."""


@dataclass(frozen=True, slots=True)
class UpdateStream:
    """One update as the engine takes it in: its tensors and what weighs them."""

    source: TensorSource
    num_examples: float = 1.0
    label: str = ""  # what errors call it; empty: its position
    base: TensorSource | None = None  # the model it was trained from; None: the current one
    staleness: int = 0
    num_steps: int | None = None
    loss: float | None = None


def element_count(shape: tuple[int, ...]) -> int:
    """How many elements a tensor of that shape has: 1 for a scalar, 0 if a dimension is zero."""
    return prod(shape)
