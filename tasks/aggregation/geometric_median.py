"""The geometric median: the model with the least sum of distances to all updates, as vectors.

By the smoothed Weiszfeld algorithm, weighted by num_examples. Source: Pillutla, Kakade and Harchaoui, IEEE
Transactions on Signal Processing 70, 2022 (RFA), Algorithm 2.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.means import by_examples, weighted_mean
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Fold, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray
from tasks.aggregation.weights import scaled_weights

# It ends when a step lowers the sum of distances by less than this share of it.
_TOLERANCE = 1e-10


class GeometricMedianParams(AggregatorParams):
    """geometric_median's parameters."""

    nu: float = Field(default=1e-6, gt=0)  # a distance counts for at least this: no division by zero
    max_iter: int = Field(default=100, ge=1)  # passes over all updates, at most


def geometric_median_needs(params: GeometricMedianParams, inputs: Inputs) -> Measuring:
    """The weights whose mean it is: num_examples over the distance from the median, found by repeated passes."""
    scaled, total = scaled_weights(by_examples(inputs))
    shares = [weight / total for weight in scaled]
    weights = list(shares)
    before, passes = np.inf, 0
    while passes < params.max_iter:
        squares = yield _squared_distances_to_mean(weights)
        passes += 1
        distances = [sqrt(square) for square in squares.tolist()]
        objective = sum(share * distance for share, distance in zip(shares, distances, strict=True))
        if before - objective <= _TOLERANCE * objective:
            break
        before = objective
        # Infinitely far (float64 of 1e200): no weight at all.
        weights = [share / max(params.nu, distance) for share, distance in zip(shares, distances, strict=True)]
    return Needs(tuple(weights), arrays=3, facts={"passes": passes})


def _squared_distances_to_mean(weights: list[float]) -> Fold:
    def fold(chunk: Chunk) -> FloatArray:
        squares: FloatArray = chunk.kernels.moments(chunk.all_raw(), None, chunk.mean(weights))[:, 0]
        return squares

    return fold


GEOMETRIC_MEDIAN = register(
    Aggregator("geometric_median", GeometricMedianParams, geometric_median_needs, weighted_mean)
)
