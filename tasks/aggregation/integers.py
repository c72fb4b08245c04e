"""Integer and boolean tensors: exact, by the declared policy, never through a fraction that nobody asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import UpdateUnusable
from tasks.aggregation.params import IntegerPolicy
from tasks.aggregation.streams import Array
from tasks.aggregation.weights import scaled_weights, whole_weights

_HALF = 32
_HALF_MASK = (1 << _HALF) - 1
# Weights that sum to less leave room in an int64 for the sum of weight times half a value, and a remainder beside it.
_WHOLE_LIMIT = 1 << 30
_UNBOUNDED_PIECE = 1 << 12  # Python's integers take some hundred bytes each


def combine_integers(policy: IntegerPolicy, weights: Sequence[float], chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """The chunk of an integer tensor by the policy, in the tensor's own dtype; `weights` of all updates of the round.

    An update of weight zero (one that Krum did not pick) has no say; where all senders of the tensor are so, each has.
    """
    of_senders = [weights[index] for index in chunk.indices]
    chosen = [at for at, weight in enumerate(of_senders) if weight] or list(range(len(of_senders)))
    if policy is IntegerPolicy.LATEST:
        return chunk.raw(chosen[-1])
    if policy is IntegerPolicy.MAX:
        largest = chunk.raw(chosen[0]).copy()
        for index in chosen[1:]:
            np.maximum(largest, chunk.raw(index), out=largest)
        return largest
    return rounded_mean([(at, of_senders[at] or 1.0) for at in chosen], chunk, dtype)


def equal_booleans(chunk: Chunk) -> Array:
    """The booleans that all updates share.

    Raises: UpdateUnusable (SCHEMA) naming the first that differs from what most have, from the first's on a tie.
    """
    first = chunk.raw(0)
    for index in range(1, len(chunk.updates)):
        differs = np.flatnonzero(chunk.raw(index) != first)
        if differs.size:
            _blame_the_minority(chunk, int(differs[0]))
    return first


def _blame_the_minority(chunk: Chunk, element: int) -> NoReturn:
    votes = [bool(chunk.raw(index)[element]) for index in range(len(chunk.updates))]
    minority = not votes[0] if 2 * votes.count(votes[0]) >= len(votes) else votes[0]
    index = votes.index(minority)
    raise UpdateUnusable(
        chunk.indices[index],
        "SCHEMA",
        f"boolean {chunk.tensor}[{chunk.start + element}] differs from the other updates': a mask can't be averaged",
        chunk.updates[index].label,
    )


def rounded_mean(weighted: Sequence[tuple[int, float]], chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """The exact mean of the updates at the positions given, by the weights given, rounded half to even.

    For any integer and any weight above zero, without overflow.

    Whole weights are summed up in int64. Otherwise float64 decides all but those values whose mean lies too near
    a half for its error, and these few are worked out in Python's unbounded integers.
    Source of the filter: Shewchuk, Discrete & Computational Geometry 18, 1997.
    """
    positions = [at for at, _weight in weighted]
    whole = whole_weights([weight for _at, weight in weighted])
    if sum(whole) < _WHOLE_LIMIT:
        return _mean_in_int64(list(zip(positions, whole, strict=True)), chunk, dtype)
    estimate, error = _mean_in_float64(weighted, chunk)
    near_a_half = np.abs(estimate - np.floor(estimate) - 0.5) <= error
    # An error of a half or more leaves every value undecided: none lies further from the nearest half.
    undecided = np.flatnonzero(near_a_half)
    estimate[undecided] = 0.0
    means = np.rint(estimate).astype(dtype)
    for start in range(0, len(undecided), _UNBOUNDED_PIECE):
        elements = undecided[start : start + _UNBOUNDED_PIECE]
        means[elements] = _mean_in_unbounded(list(zip(positions, whole, strict=True)), chunk, elements, dtype)
    return means


def _mean_in_int64(whole: list[tuple[int, int]], chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """Upper and lower halves are summed apart, as a long division by hand does: no sum exceeds 62 bits."""
    divisor = sum(weight for _at, weight in whole)
    upper = np.zeros(chunk.size, np.int64)
    lower = np.zeros(chunk.size, np.int64)
    for at, weight in whole:
        values = chunk.raw(at)
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


def _mean_in_float64(
    weighted: Sequence[tuple[int, float]], chunk: Chunk
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean to within the error that comes with it, both by element."""
    scaled, total = scaled_weights(tuple(weight for _at, weight in weighted))
    mean = np.zeros(chunk.size, np.float64)
    magnitude = np.zeros(chunk.size, np.float64)
    for (at, _weight), weight in zip(weighted, scaled, strict=True):
        values = chunk.raw(at).astype(np.float64)
        values *= weight
        mean += values
        magnitude += np.abs(values)
    # Each of converting, multiplying, adding n times, summing the weights and dividing errs by 2**-53 at most of
    # the magnitudes' mean; twice that also covers the products of those errors and the bound's own rounding.
    # The last term is for weights so small beside the largest that scaling them lost bits.
    error = (magnitude / total) * ((len(scaled) + 4) * 2.0**-52) + 2.0**-900
    return mean / total, error


def _mean_in_unbounded(
    whole: list[tuple[int, int]], chunk: Chunk, elements: NDArray[np.intp], dtype: np.dtype[Any]
) -> Array:
    totals = [0] * len(elements)
    for at, weight in whole:
        values = chunk.raw(at)[elements].tolist()
        totals = [total + weight * value for total, value in zip(totals, values, strict=True)]
    divisor = sum(weight for _at, weight in whole)
    return np.array([_round_half_even(total, divisor) for total in totals], dtype=dtype)


def _round_half_even(total: int, divisor: int) -> int:
    quotient, remainder = divmod(total, divisor)
    return quotient + (2 * remainder > divisor or (2 * remainder == divisor and quotient % 2 == 1))
