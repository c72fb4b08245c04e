"""One piece of one tensor, of every update at once: what aggregators compute on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.aggregation.dtypes import NUMPY_DTYPES
from tasks.aggregation.errors import CurrentUnusable, UpdateUnusable
from tasks.aggregation.kernels import Kernels
from tasks.aggregation.streams import Array, FloatArray, TensorSource, UpdateStream
from tasks.aggregation.weights import scaled_weights


@dataclass(frozen=True, slots=True)
class Chunk:
    """Elements [start, stop) of one tensor, of every update that has it.

    Weights and coefficients are given for all updates of the round, in its order; those of updates without this
    tensor (`keys = per_tensor`) are left out here. An update of weight zero is not even read.
    """

    updates: tuple[UpdateStream, ...]  # those with this tensor
    indices: tuple[int, ...]  # their positions among all updates of the round
    tensor: str
    dtype: str
    start: int
    stop: int
    kernels: Kernels
    current_source: TensorSource | None = None
    state_source: TensorSource | None = None  # None: nothing was kept so far
    references: Mapping[str, TensorSource] = field(default_factory=dict)
    tensor_index: int = 0  # among the model's
    kept: dict[str, FloatArray] = field(default_factory=dict)  # what `keep` was given
    _read: dict[int, Array] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.stop - self.start

    # --- as they are

    def raw(self, index: int) -> Array:
        """The elements of `updates[index]` in the tensor's own dtype; not to be written to.

        Raises: UpdateUnusable (SHAPE) for a source that hands out other elements than it declared: they must not
        broadcast their way in.
        """
        if index not in self._read:
            values = self.updates[index].source.read(self.tensor, self.start, self.stop)
            if fault := self._fault_of(values):
                raise UpdateUnusable(self.indices[index], "SHAPE", fault, self.updates[index].label)
            self._read[index] = values
        return self._read[index]

    def raw_base(self, index: int) -> Array:
        """The same elements of the model that `updates[index]` was trained from. Raises: CurrentUnusable."""
        base = self.updates[index].base or self.current_source
        assert base is not None, "the engine lets no update without a base meet an aggregator of deltas"
        return self._of(base, f"the base of {self.updates[index].label or f'update {self.indices[index]}'}")

    def raw_current(self) -> Array:
        """The same elements of the current model. Raises: CurrentUnusable."""
        assert self.current_source is not None, "declare `deltas` to be given the current model"
        return self._of(self.current_source, "the current model")

    def raw_reference(self, name: str) -> Array:
        """The same elements of a model given beside the updates. Raises: CurrentUnusable."""
        return self._of(self.references[name], f"the model {name!r}")

    def all_raw(self) -> list[Array]:
        """`raw` of every update that has the tensor."""
        return [self.raw(at) for at in range(len(self.updates))]

    def all_raw_bases(self) -> list[Array]:
        """`raw_base` of every update that has the tensor."""
        return [self.raw_base(at) for at in range(len(self.updates))]

    # --- in float64

    def floats(self) -> Iterator[FloatArray]:
        """Each update's elements in float64, in the order given.

        All in one buffer: free to be changed, gone when the next is asked for.
        """
        buffer = np.empty(self.size, np.float64)
        for index in range(len(self.updates)):
            np.copyto(buffer, self.raw(index))
            yield buffer

    def deltas(self) -> Iterator[FloatArray]:
        """The same, less what each was trained from."""
        for index, values in enumerate(self.floats()):
            values -= self.raw_base(index).astype(np.float64)
            yield values

    def current(self) -> FloatArray:
        """The current model's elements; the caller's own."""
        return self.raw_current().astype(np.float64)

    def reference(self, name: str) -> FloatArray:
        """The elements of a model given beside the updates; the caller's own."""
        return self.raw_reference(name).astype(np.float64)

    def state(self, name: str) -> FloatArray:
        """What the last round kept under that name, zeros in the first; the caller's own."""
        if self.state_source is None:
            return np.zeros(self.size, np.float64)
        return self.state_source.read(state_name(name, self.tensor), self.start, self.stop).astype(np.float64)

    def keep(self, name: str, values: FloatArray) -> None:
        """Hand `values` to the next round."""
        self.kept[name] = values

    # --- over all updates, by the fast kernels

    def weighted_sum(self, coefficients: Sequence[float]) -> FloatArray:
        """Sum of coefficient × value, added up in the order given."""
        return self._sum_by_round(coefficients, deltas=False)

    def weighted_deltas(self, coefficients: Sequence[float]) -> FloatArray:
        """Sum of coefficient × (value - base), added up in the order given."""
        return self._sum_by_round(coefficients, deltas=True)

    def weighted_offsets(self, coefficients: Sequence[float]) -> FloatArray:
        """Sum of coefficient × (value - current), whatever the updates' own bases are."""
        chosen = self._chosen(coefficients)
        current = self.raw_current()
        return self.kernels.weighted_sum(
            [self.raw(at) for at in chosen],
            [current] * len(chosen),
            [coefficients[self.indices[at]] for at in chosen],
            self.size,
        )

    def mean(self, weights: Sequence[float]) -> FloatArray:
        """Sum of weight × value over the sum of weights, divided once at the end.

        Whole numbers with whole weights give their exact mean, correctly rounded.
        """
        return self._mean(weights, deltas=False)

    def cast_mean(self, weights: Sequence[float]) -> Array:
        """`mean`, in the tensor's own dtype if that is float32: quicker where nothing else is to be done to it."""
        if self.dtype != "F32":
            return self.mean(weights)
        chosen, scaled, total = self._scaled(weights)
        return self.kernels.narrow_weighted_sum([self.raw(at) for at in chosen], scaled, self.size, total)

    def mean_delta(self, weights: Sequence[float]) -> FloatArray:
        """Sum of weight × (value - base) over the sum of weights, divided once at the end."""
        return self._mean(weights, deltas=True)

    def sorted_mean(self, low: int, high: int) -> FloatArray:
        """By element: the mean of the values of rank [low, high) among the updates, ascending from 0."""
        return self.kernels.sorted_mean(self.all_raw(), low, high)

    def _of(self, source: TensorSource, what: str) -> Array:
        values = source.read(self.tensor, self.start, self.stop)
        if fault := self._fault_of(values):
            raise CurrentUnusable(fault, what)
        return values

    def _fault_of(self, values: Array) -> str:
        if values.shape == (self.size,) and values.dtype == NUMPY_DTYPES[self.dtype]:
            return ""
        return (
            f"tensor {self.tensor!r} gave {list(values.shape)} of {values.dtype} for elements "
            f"{self.start} to {self.stop} of {NUMPY_DTYPES[self.dtype]}"
        )

    def _mean(self, weights: Sequence[float], *, deltas: bool) -> FloatArray:
        chosen, scaled, total = self._scaled(weights)
        return self._sum(chosen, scaled, total, deltas=deltas)

    def _scaled(self, weights: Sequence[float]) -> tuple[list[int], list[float], float]:
        chosen = self._chosen(weights)
        scaled, total = scaled_weights(tuple(weights[self.indices[at]] for at in chosen))
        return chosen, scaled, total

    def _sum_by_round(self, coefficients: Sequence[float], *, deltas: bool) -> FloatArray:
        chosen = self._chosen(coefficients)
        return self._sum(chosen, [coefficients[self.indices[at]] for at in chosen], 1.0, deltas=deltas)

    def _sum(self, chosen: Sequence[int], coefficients: Sequence[float], divisor: float, *, deltas: bool) -> FloatArray:
        values = [self.raw(at) for at in chosen]
        bases = [self.raw_base(at) for at in chosen] if deltas else None
        return self.kernels.weighted_sum(values, bases, coefficients, self.size, divisor)

    def _chosen(self, weights: Sequence[float]) -> list[int]:
        return [at for at, index in enumerate(self.indices) if weights[index]]


def state_name(name: str, tensor: str) -> str:
    """What the state `name` of a model's tensor is called where state is stored."""
    return f"{name}/{tensor}"
