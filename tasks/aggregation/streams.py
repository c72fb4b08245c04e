"""What the engine reads from and writes to: tensors by pieces, wherever they lie.

Structurally these are the readers and writers of `connectors.model_data`, so a stored model fits as it is; the
engine itself knows no store.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """One model's tensors, read by pieces."""

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
    staleness: int = 0
    num_steps: int | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Elements [start, stop) of one tensor, of every update: what a combining function works on."""

    updates: tuple[UpdateStream, ...]
    tensor: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.stop - self.start

    def raw(self, index: int) -> Array:
        """One update's elements in the tensor's own dtype; not to be written to."""
        return self.updates[index].source.read(self.tensor, self.start, self.stop)

    def floats(self) -> Iterator[FloatArray]:
        """Each update's elements in float64, in the order given.

        All in one buffer: free to be changed, gone when the next is asked for.
        """
        buffer = np.empty(self.size, np.float64)
        for index in range(len(self.updates)):
            np.copyto(buffer, self.raw(index))
            yield buffer


def element_count(shape: tuple[int, ...]) -> int:
    """How many elements a tensor of that shape has: 1 for a scalar, 0 if a dimension is zero."""
    return prod(shape)
