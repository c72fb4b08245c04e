"""Weighted means: fedavg, and FMA's two names for the unweighted one."""

from __future__ import annotations

from enum import StrEnum

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Needs, register
from tasks.aggregation.streams import Array


class Weighting(StrEnum):
    """What an update counts for in a mean."""

    NUM_EXAMPLES = "num_examples"
    UNIFORM = "uniform"


class FedAvgParams(AggregatorParams):
    """fedavg's parameters."""

    weighting: Weighting = Weighting.NUM_EXAMPLES


def fedavg_needs(params: FedAvgParams, inputs: Inputs) -> Needs:
    """Weights by examples or equal ones; three arrays: the sum, one update, and its product with the weight."""
    if params.weighting is Weighting.UNIFORM:
        return uniform_needs(params, inputs)
    return Needs(by_examples(inputs), arrays=3)


def uniform_needs(params: AggregatorParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """Equal weights, whatever the numbers of examples."""
    return Needs(alike(inputs), arrays=3)


def by_examples(inputs: Inputs) -> tuple[float, ...]:
    """Every update counts for what it was trained on."""
    return tuple(float(update.num_examples) for update in inputs.updates)


def alike(inputs: Inputs) -> tuple[float, ...]:
    """Every update counts for one."""
    return (1.0,) * len(inputs.updates)


def weighted_mean(params: AggregatorParams, needs: Needs, chunk: Chunk) -> Array:  # noqa: ARG001  # one signature for all
    """The sum of weight times value over the sum of weights, float64, added in the order given.

    Source: McMahan et al., AISTATS 2017, Algorithm 1.
    """
    return chunk.cast_mean(needs.weights)


FEDAVG = register(Aggregator("fedavg", FedAvgParams, fedavg_needs, weighted_mean, by_tensor=True))
# FMA has one function for flat lists and one for lists of layers; here the layers are the tensors of both.
AVG_VALUES_IF_DATA = register(
    Aggregator("avg_values_if_data", AggregatorParams, uniform_needs, weighted_mean, by_tensor=True)
)
AVERAGE_LAYERS = register(Aggregator("average_layers", AggregatorParams, uniform_needs, weighted_mean, by_tensor=True))
