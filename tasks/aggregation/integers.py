"""Integer and boolean tensors: exact, by the declared policy, never through a fraction that nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.errors import UpdateUnusable
from tasks.aggregation.params import IntegerPolicy
from tasks.aggregation.registry import Needs
from tasks.aggregation.streams import Array, Chunk
from tasks.aggregation.weights import scaled_weights, whole_weights

_HALF = 32
_HALF_MASK = (1 << _HALF) - 1
# Weights that sum to less leave room in an int64 for the sum of weight times half a value, and a remainder beside it.
_WHOLE_LIMIT = 1 << 30
_UNBOUNDED_PIECE = 1 << 12  # Python's integers take some hundred bytes each


def combine_integers(policy: IntegerPolicy, needs: Needs, chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """The chunk of an integer tensor by the policy, in the tensor's own dtype."""
    if policy is IntegerPolicy.LATEST:
        return chunk.raw(len(chunk.updates) - 1)
    if policy is IntegerPolicy.MAX:
        largest = chunk.raw(0).copy()
        for index in range(1, len(chunk.updates)):
            np.maximum(largest, chunk.raw(index), out=largest)
        return largest
    return rounded_mean(needs, chunk, dtype)


def equal_booleans(chunk: Chunk) -> Array:
    """The booleans that all updates share. Raises: UpdateUnusable (SCHEMA) naming who differs from the first."""
    first = chunk.raw(0)
    for index in range(1, len(chunk.updates)):
        differs = np.flatnonzero(chunk.raw(index) != first)
        if differs.size:
            element = chunk.start + int(differs[0])
            raise UpdateUnusable(
                index,
                "SCHEMA",
                f"boolean {chunk.tensor}[{element}] differs from the first update's: a mask can't be averaged",
                chunk.updates[index].label,
            )
    return first


def rounded_mean(needs: Needs, chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """The exact weighted mean, rounded half to even: for any integer, any weight, without overflow.

    Whole weights are summed up in int64. Otherwise float64 decides all but those values whose mean lies too near
    a half for its error, and these few are worked out in Python's unbounded integers.
    Source of the filter: Shewchuk, Discrete & Computational Geometry 18, 1997.
    """
    whole = whole_weights(needs.weights)
    if sum(whole) < _WHOLE_LIMIT:
        return _mean_in_int64(whole, chunk, dtype)
    estimate, error = _mean_in_float64(needs.weights, chunk)
    near_a_half = np.abs(estimate - np.floor(estimate) - 0.5) <= error
    # An error of a half or more leaves every value undecided: none lies further from the nearest half.
    undecided = np.flatnonzero(near_a_half)
    estimate[undecided] = 0.0
    means = np.rint(estimate).astype(dtype)
    for start in range(0, len(undecided), _UNBOUNDED_PIECE):
        elements = undecided[start : start + _UNBOUNDED_PIECE]
        means[elements] = _mean_in_unbounded(whole, chunk, elements, dtype)
    return means


def _mean_in_int64(whole: list[int], chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """Upper and lower halves are summed apart, as a long division by hand does: no sum exceeds 62 bits."""
    divisor = sum(whole)
    upper = np.zeros(chunk.size, np.int64)
    lower = np.zeros(chunk.size, np.int64)
    for index, weight in enumerate(whole):
        values = chunk.raw(index)
        if dtype.itemsize < 8:
            lower += values.astype(np.int64) * weight
        else:
            upper += (values >> _HALF).astype(np.int64) * weight
            lower += (values & _HALF_MASK).astype(np.int64) * weight
    quotient, remainder = np.divmod(upper, divisor)
    lower += remainder << _HALF
    lower_quotient, remainder = np.divmod(lower, divisor)
    twice = 2 * remainder
    lower_quotient += (twice > divisor) | ((twice == divisor) & (lower_quotient % 2 == 1))
    # May wrap around in between; what comes out lies among the values, so it fits their dtype.
    return ((quotient << _HALF) + lower_quotient).astype(dtype)


def _mean_in_float64(weights: tuple[float, ...], chunk: Chunk) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean to within the error that comes with it, both by element."""
    scaled, total = scaled_weights(weights)
    mean = np.zeros(chunk.size, np.float64)
    magnitude = np.zeros(chunk.size, np.float64)
    for weight, values in zip(scaled, chunk.floats(), strict=True):
        values *= weight
        mean += values
        magnitude += np.abs(values)
    # Each of converting, multiplying, adding n times, summing the weights and dividing errs by 2**-53 at most of
    # the magnitudes' mean; twice that also covers the products of those errors and the bound's own rounding.
    # The last term is for weights so small beside the largest that scaling them lost bits.
    error = (magnitude / total) * ((len(scaled) + 4) * 2.0**-52) + 2.0**-900
    return mean / total, error


def _mean_in_unbounded(whole: list[int], chunk: Chunk, elements: NDArray[np.intp], dtype: np.dtype[Any]) -> Array:
    totals = [0] * len(elements)
    for index, weight in enumerate(whole):
        values = chunk.raw(index)[elements].tolist()
        totals = [total + weight * value for total, value in zip(totals, values, strict=True)]
    divisor = sum(whole)
    return np.array([_round_half_even(total, divisor) for total in totals], dtype=dtype)


def _round_half_even(total: int, divisor: int) -> int:
    quotient, remainder = divmod(total, divisor)
    return quotient + (2 * remainder > divisor or (2 * remainder == divisor and quotient % 2 == 1))
