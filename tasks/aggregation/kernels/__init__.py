"""The few sums over all updates that cost the time, in two forms that agree to the bit.

`reference` is plain numpy, read like a formula. `compiled` is the same by numba: every value is read once, straight
from where it lies, and nothing larger than a processor's cache is written in between. Which of the two computes
changes nothing but the time; tests hold their bytes together.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.streams import Array, FloatArray

# Sums over elements (norms, distances) are float64 and follow one fixed order, or their bytes would depend on who
# computes them: a tensor is cut into segments, a segment into tiles, a tile's products are dealt out to lanes like
# cards. Each lane is added up in order, the lanes by halves, then tiles and segments in order.
SEGMENT = 1 << 16
TILE = 1024
LANES = 32


class Engine(StrEnum):
    """Who computes."""

    AUTO = "auto"  # numba where there is enough to do to be worth loading it
    NUMPY = "numpy"
    NUMBA = "numba"


class Kernels(Protocol):
    """What both forms offer. Arrays are 1-D, of one length and one float dtype; outcomes are float64."""

    def weighted_sum(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None,
        coefficients: Sequence[float],
        size: int,
        divisor: float = 1.0,
    ) -> FloatArray:
        """Sum of coefficient × (value - base) by element, from 0 in the order given, over `divisor`. Shape (size,)."""

    def narrow_weighted_sum(
        self, values: Sequence[Array], coefficients: Sequence[float], size: int, divisor: float
    ) -> NDArray[np.float32]:
        """The same without bases, each element cast to float32 as soon as it is divided."""

    def sorted_mean(self, values: Sequence[Array], low: int, high: int) -> FloatArray:
        """Mean of the values of rank [low, high) by element, summed ascending; NaN where any is not finite."""

    def mean_near_median(self, values: Sequence[Array], count: int) -> FloatArray:
        """Mean of the `count` values nearest the median by element (of two as near, the lower); NaN likewise."""

    def squared_distances(self, values: Sequence[Array]) -> FloatArray:
        """Sum of (a - b)² over one segment, for every pair: (1, 0), (2, 0), (2, 1), (3, 0), …"""

    def moments(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None = None,
        centre: FloatArray | None = None,
        along: FloatArray | None = None,
    ) -> FloatArray:
        """Sums of d² and of d × along over one segment for d = value - base - centre. Shape (updates, 2).

        What is not given is zero.
        """
