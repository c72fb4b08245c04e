"""The way through a round's tensors, piece by piece: who computes, in what order, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import numpy as np

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.dtypes import NUMPY_DTYPES, is_float
from tasks.aggregation.errors import ResultNotFinite, UpdateUnusable
from tasks.aggregation.kernels import Kernels
from tasks.aggregation.streams import TensorSource, TensorSpec, UpdateStream, element_count
from tasks.aggregation.threads import in_order

Done = TypeVar("Done")


@dataclass(slots=True)
class Walk:
    """One combination on its way."""

    updates: tuple[UpdateStream, ...]
    tensors: tuple[TensorSpec, ...]
    senders: Mapping[str, tuple[int, ...]]
    kernels: Kernels
    current: TensorSource | None
    state: TensorSource | None
    references: Mapping[str, TensorSource]
    threads: int
    on_progress: Callable[[int], None] | None
    bytes_read: int = 0
    _senders: dict[tuple[int, ...], tuple[UpdateStream, ...]] = field(default_factory=dict)

    def run(
        self, do: Callable[[Chunk], Done], tensors: Sequence[TensorSpec], chunk_size: int, ahead: int
    ) -> Generator[tuple[Chunk, Done], None, None]:
        """Every chunk of those tensors with what `do` made of it, in order; `do` is called by several threads.

        `on_progress` is called by the caller's thread, after the caller is done with the chunk.
        """
        sizes = [element_count(shape) for _name, shape, _dtype in tensors]
        alone = sum(-(-size // chunk_size) for size in sizes) <= 1 or sum(sizes) * len(self.updates) < _ALONE_BELOW
        given = self._chunks(tensors, chunk_size)
        threads = 1 if alone else self.threads
        with closing(in_order(lambda chunk: (chunk, do(chunk)), given, threads, ahead)) as all_done:
            for chunk, done in all_done:
                yield chunk, done
                self.bytes_read += chunk.size * NUMPY_DTYPES[chunk.dtype].itemsize * len(chunk.updates)
                if self.on_progress is not None:
                    self.on_progress(self.bytes_read)

    @property
    def float_tensors(self) -> tuple[TensorSpec, ...]:
        """Those that are combined in float64, and measured."""
        return tuple(tensor for tensor in self.tensors if is_float(tensor[2]))

    def _chunks(self, tensors: Sequence[TensorSpec], chunk_size: int) -> Iterator[Chunk]:
        positions = {name: at for at, (name, _shape, _dtype) in enumerate(self.tensors)}
        for name, shape, dtype in tensors:
            indices = self.senders[name]
            if indices not in self._senders:
                self._senders[indices] = tuple(self.updates[index] for index in indices)
            size = element_count(shape)
            for start in range(0, size, chunk_size):
                yield Chunk(
                    updates=self._senders[indices],
                    indices=indices,
                    tensor=name,
                    dtype=dtype,
                    start=start,
                    stop=min(start + chunk_size, size),
                    kernels=self.kernels,
                    current_source=self.current,
                    state_source=self.state,
                    references=self.references,
                    tensor_index=positions[name],
                )


# Fewer elements are done before a second thread has begun.
_ALONE_BELOW = 1 << 16


def find_culprit(chunk: Chunk) -> None:
    """Return if every update's value is finite. Raises: UpdateUnusable (NOT_FINITE) naming the first that is not."""
    for index, update in enumerate(chunk.updates):
        values = chunk.raw(index)
        finite = np.isfinite(values)
        if not finite.all():
            at = int(np.argmin(finite))
            raise UpdateUnusable(
                chunk.indices[index], "NOT_FINITE", f"{chunk.tensor}[{chunk.start + at}] is {values[at]}", update.label
            )


def raise_not_finite(chunk: Chunk, element: int) -> NoReturn:
    """Say whose fault it is that the outcome's element is not finite. Raises: UpdateUnusable, ResultNotFinite."""
    find_culprit(chunk)
    raise ResultNotFinite(chunk.tensor, chunk.start + element, chunk.dtype)
