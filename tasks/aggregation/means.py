"""Weighted means: fedavg, and FMA's two names for the unweighted one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Needs, register
from tasks.aggregation.streams import Chunk, FloatArray, UpdateStream
from tasks.aggregation.weights import scaled_weights


class Weighting(StrEnum):
    """What an update counts for in a mean."""

    NUM_EXAMPLES = "num_examples"
    UNIFORM = "uniform"


class FedAvgParams(AggregatorParams):
    """fedavg's parameters."""

    weighting: Weighting = Weighting.NUM_EXAMPLES


def fedavg_needs(params: FedAvgParams, updates: Sequence[UpdateStream]) -> Needs:
    """Weights by examples or equal ones; three arrays: the sum, one update, and its product with the weight."""
    uniform = params.weighting is Weighting.UNIFORM
    return Needs(tuple(1.0 if uniform else float(update.num_examples) for update in updates), arrays=3)


def uniform_needs(params: AggregatorParams, updates: Sequence[UpdateStream]) -> Needs:  # noqa: ARG001  # one signature for all
    """Equal weights, whatever the numbers of examples."""
    return Needs((1.0,) * len(updates), arrays=3)


def weighted_mean(params: AggregatorParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001  # one signature for all
    """The sum of weight times value over the sum of weights, float64, added in the order given.

    Divided once at the end: whole numbers with whole weights give their exact mean, correctly rounded.
    Source: McMahan et al., AISTATS 2017, Algorithm 1.
    """
    weights, total = scaled_weights(needs.weights)
    mean = np.zeros(chunk.size, np.float64)
    for weight, values in zip(weights, chunk.floats(), strict=True):
        values *= weight
        mean += values
    mean /= total
    return mean


FEDAVG = register(Aggregator("fedavg", FedAvgParams, fedavg_needs, weighted_mean))
# FMA has one function for flat lists and one for lists of layers; here the layers are the tensors of both.
AVG_VALUES_IF_DATA = register(Aggregator("avg_values_if_data", AggregatorParams, uniform_needs, weighted_mean))
AVERAGE_LAYERS = register(Aggregator("average_layers", AggregatorParams, uniform_needs, weighted_mean))
