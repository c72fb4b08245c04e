"""Aggregators that bound how far one update can pull: norm_clipping and centered_clipping.

Sources: Sun et al., 2019, "Can you really backdoor federated learning?" (norm_clipping); Karimireddy, He and Jaggi,
ICML 2021 (centered_clipping).
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.means import alike, by_examples
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray
from tasks.aggregation.weights import scaled_weights


class ClippingParams(AggregatorParams):
    """Both clipping aggregators' parameters."""

    tau: float = Field(gt=0)  # the longest that a delta stays as it is, in the Euclidean norm over the whole model


def norm_clipping_needs(params: ClippingParams, inputs: Inputs) -> Measuring:
    """Each update's share, times how much its delta is shortened."""
    squares = yield squared_norms_of_deltas
    norms, factors = clip_factors(squares, params.tau)
    weights = by_examples(inputs)
    scaled, total = scaled_weights(weights)
    coefficients = [weight * factor / total for weight, factor in zip(scaled, factors, strict=True)]
    return Needs(weights, arrays=5, found=coefficients, facts={"norms": norms, "clipped": count_clipped(factors)})


def norm_clipping(params: ClippingParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The model plus the mean of the clipped deltas, weighted by num_examples."""
    return chunk.current() + chunk.weighted_deltas(needs.found)


def centered_clipping_needs(params: ClippingParams, inputs: Inputs) -> Measuring:
    """How much each update's way from the last v is shortened. All count alike."""
    squares = yield _squared_distances_to_v
    norms, factors = clip_factors(squares, params.tau)
    return Needs(alike(inputs), arrays=6, found=factors, facts={"distances": norms, "clipped": count_clipped(factors)})


def centered_clipping(params: ClippingParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """v + the mean of the clipped (delta - v) becomes v; the model moves by it."""
    factors: list[float] = needs.found
    count = len(factors)
    v = chunk.state("v")
    v = v * (1 - sum(factors) / count) + chunk.weighted_deltas(factors) / count
    chunk.keep("v", v)
    return chunk.current() + v


def squared_norms_of_deltas(chunk: Chunk) -> FloatArray:
    """The fold: what a segment adds to the squared norm of every update's delta."""
    squares: FloatArray = chunk.kernels.moments(chunk.all_raw(), chunk.all_raw_bases())[:, 0]
    return squares


def clip_factors(squares: FloatArray, bound: float) -> tuple[list[float], list[float]]:
    """(norms, what each must be multiplied by so that none exceeds the bound)."""
    norms = [sqrt(square) for square in np.asarray(squares).tolist()]
    return norms, [1.0 if norm <= bound else bound / norm for norm in norms]


def count_clipped(factors: list[float]) -> int:
    """How many were shortened."""
    return sum(factor < 1 for factor in factors)


def _squared_distances_to_v(chunk: Chunk) -> FloatArray:
    squares: FloatArray = chunk.kernels.moments(chunk.all_raw(), chunk.all_raw_bases(), chunk.state("v"))[:, 0]
    return squares


NORM_CLIPPING = register(Aggregator("norm_clipping", ClippingParams, norm_clipping_needs, norm_clipping, deltas=True))
CENTERED_CLIPPING = register(
    Aggregator(
        "centered_clipping", ClippingParams, centered_clipping_needs, centered_clipping, deltas=True, state=("v",)
    )
)
