"""The kernels in plain numpy: what the compiled ones are checked against, and quick enough for small models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.kernels import LANES, TILE
from tasks.aggregation.streams import Array, FloatArray


class Reference:
    """Every method as `Kernels` says."""

    def weighted_sum(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None,
        coefficients: Sequence[float],
        size: int,
        divisor: float = 1.0,
    ) -> FloatArray:
        """Three arrays of that size: the sum, one update, its base."""
        total = np.zeros(size, np.float64)
        buffer = np.empty(size, np.float64)
        for index, coefficient in enumerate(coefficients):
            np.copyto(buffer, values[index])
            if bases is not None:
                buffer -= bases[index].astype(np.float64)
            buffer *= coefficient
            total += buffer
        if divisor != 1:
            total /= divisor
        return total

    def narrow_weighted_sum(
        self, values: Sequence[Array], coefficients: Sequence[float], size: int, divisor: float
    ) -> NDArray[np.float32]:
        """First whole, then cast."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.weighted_sum(values, None, coefficients, size, divisor).astype(np.float32)

    def sorted_mean(self, values: Sequence[Array], low: int, high: int) -> FloatArray:
        """All updates at once in float64, sorted by element."""
        stacked = np.stack(values).astype(np.float64)
        finite = not_finite_as_nan(stacked)
        stacked.sort(axis=0)
        total = np.zeros(stacked.shape[1], np.float64)
        for rank in range(low, high):
            total += stacked[rank]
        total /= high - low
        return total + finite

    def mean_near_median(self, values: Sequence[Array], count: int) -> FloatArray:
        """Of the sorted values, whichever end lies further from the median goes, until `count` are left."""
        stacked = np.stack(values).astype(np.float64)
        finite = not_finite_as_nan(stacked)
        stacked.sort(axis=0)
        updates, size = stacked.shape
        median = (stacked[(updates - 1) // 2] + stacked[updates // 2]) / 2
        low = np.zeros(size, np.intp)
        column = np.arange(size)
        for left in range(updates, count, -1):
            below = median - stacked[low, column]
            above = stacked[low + left - 1, column] - median
            low += below > above
        total = np.zeros(size, np.float64)
        for offset in range(count):
            total += stacked[low + offset, column]
        total /= count
        return total + finite

    def squared_distances(self, values: Sequence[Array]) -> FloatArray:
        """One pair after another, by direct differences: none can come out negative."""
        floats = [value.astype(np.float64) for value in values]
        sums = []
        for i, first in enumerate(floats):
            for second in floats[:i]:
                difference = first - second
                sums.append(sum_in_order(difference * difference))
        return np.array(sums, np.float64)

    def moments(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None = None,
        centre: FloatArray | None = None,
        along: FloatArray | None = None,
    ) -> FloatArray:
        """One update after another."""
        sums = np.zeros((len(values), 2), np.float64)
        for index, value in enumerate(values):
            difference = value.astype(np.float64)
            if bases is not None:
                difference -= bases[index].astype(np.float64)
            if centre is not None:
                difference -= centre
            sums[index, 0] = sum_in_order(difference * difference)
            if along is not None:
                sums[index, 1] = sum_in_order(difference * along)
        return sums


def sum_in_order(products: FloatArray) -> float:
    """The sum of a segment's products in the order that `kernels` fixes."""
    # Zeros at the end add nothing; a reduction along any but the last axis goes row by row.
    tiles = -(-products.size // TILE)
    padded = np.zeros(tiles * TILE, np.float64)
    padded[: products.size] = products
    lanes = np.add.reduce(padded.reshape(tiles, TILE // LANES, LANES), axis=1)
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    total = 0.0
    for tile in lanes[:, 0].tolist():
        total += tile
    return total


def not_finite_as_nan(stacked: FloatArray) -> FloatArray:
    """By element (column): 0, or NaN if any of its values is not finite. Sorting alone would hide an infinity."""
    flags = np.zeros(stacked.shape[1], np.float64)
    with np.errstate(invalid="ignore"):
        for row in stacked:
            flags += row * 0.0
    return flags


REFERENCE = Reference()
