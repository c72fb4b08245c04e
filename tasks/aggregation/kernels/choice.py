"""Which form of the kernels computes: numpy at once, numba where there is enough to do to be worth loading it.

Both give the same bytes, so it may change in the middle of a combination.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.kernels import Engine, Kernels
from tasks.aggregation.kernels.reference import REFERENCE
from tasks.aggregation.streams import Array, FloatArray

Done = TypeVar("Done")

# Loading numba and its machine code from the disk takes about half a second in a new process. A combination that has
# kept numpy busy for so long is likely to go on for longer; a small one never gets there.
_PATIENCE_SECONDS = 0.3
_WORTH_LOADING = 1 << 28
_WORTH_USING = 1 << 20

_compiled: Kernels | None = None
_loading = threading.Lock()


def kernels_for(engine: Engine, num_bytes: int) -> Kernels:
    """The form to compute with for that many bytes of updates."""
    if engine is Engine.NUMPY:
        return REFERENCE
    if engine is Engine.NUMBA or (_compiled is not None and num_bytes >= _WORTH_USING):
        return _load()
    return Impatient()


def is_worth_loading(engine: Engine, num_bytes: int) -> bool:
    """Whether a process that is about to combine that many bytes, and knows, had better load numba's form at once."""
    return engine is Engine.NUMBA or (engine is Engine.AUTO and num_bytes >= _WORTH_LOADING)


def _load() -> Kernels:
    global _compiled
    with _loading:
        if _compiled is None:
            # Imported late: numba takes a quarter of a second that a worker with small models never spends.
            from tasks.aggregation.kernels.compiled import load

            _compiled = load()
        return _compiled


class Impatient:
    """numpy's kernels, until they have taken longer than loading numba's would. One for each combination."""

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._left = patience_seconds  # threads may overwrite each other's share: it is an estimate

    def weighted_sum(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None,
        coefficients: Sequence[float],
        size: int,
        divisor: float = 1.0,
    ) -> FloatArray:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.weighted_sum(values, bases, coefficients, size, divisor))

    def narrow_weighted_sum(
        self, values: Sequence[Array], coefficients: Sequence[float], size: int, divisor: float
    ) -> NDArray[np.float32]:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.narrow_weighted_sum(values, coefficients, size, divisor))

    def sorted_mean(self, values: Sequence[Array], low: int, high: int) -> FloatArray:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.sorted_mean(values, low, high))

    def mean_near_median(self, values: Sequence[Array], count: int) -> FloatArray:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.mean_near_median(values, count))

    def squared_distances(self, values: Sequence[Array]) -> FloatArray:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.squared_distances(values))

    def moments(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None = None,
        centre: FloatArray | None = None,
        along: FloatArray | None = None,
    ) -> FloatArray:
        """As `Kernels` says."""
        return self._by(lambda kernels: kernels.moments(values, bases, centre, along))

    def _by(self, compute: Callable[[Kernels], Done]) -> Done:
        if self._left <= 0:
            return compute(_load())
        began = time.monotonic()
        done = compute(REFERENCE)
        self._left -= time.monotonic() - began
        return done
