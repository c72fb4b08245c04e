"""Server optimizers over the mean delta: fedavgm, fedadagrad, fedadam, fedyogi.

The mean of the updates' deltas, weighted by num_examples, is a step that the server takes by an optimizer of its own.
Sources: Hsu, Qi and Brown, 2019 (fedavgm); Reddi et al., ICLR 2021, Algorithm 2 (the others; v starts at 0);
Kingma and Ba, ICLR 2015 (the correction of both moments).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.means import by_examples
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Needs, register
from tasks.aggregation.streams import FloatArray

# The mean delta, both moments and their squares, the model, and the products on the way to each.
_ARRAYS = 10


class BiasCorrection(StrEnum):
    """Whether the moments are divided by what they lack in the first rounds, having started at 0."""

    NONE = "none"
    KINGMA = "kingma"


class FedAvgMParams(AggregatorParams):
    """fedavgm's parameters."""

    server_learning_rate: float = Field(default=1.0, gt=0)
    server_momentum: float = Field(default=0.0, ge=0, lt=1)


class FedAdagradParams(AggregatorParams):
    """fedadagrad's parameters."""

    eta: float = Field(default=0.1, gt=0)
    tau: float = Field(default=1e-3, gt=0)


class FedAdamParams(AggregatorParams):
    """fedadam's parameters."""

    eta: float = Field(default=0.1, gt=0)
    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)
    bias_correction: BiasCorrection = BiasCorrection.NONE


class FedYogiParams(AggregatorParams):
    """fedyogi's parameters."""

    eta: float = Field(default=0.01, gt=0)
    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)


def mean_delta_needs(params: AggregatorParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """Weights by examples."""
    return Needs(by_examples(inputs), arrays=_ARRAYS)


def fedadam_needs(params: FedAdamParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """Weights by examples, and the number of this round, from 1."""
    rounds = float(inputs.scalars["t"]) + 1
    return Needs(by_examples(inputs), arrays=_ARRAYS, found=rounds, scalars={"t": rounds})


def fedavgm(params: FedAvgMParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """m = server_momentum × m + delta; model + server_learning_rate × m."""
    m = params.server_momentum * chunk.state("m") + chunk.mean_delta(needs.weights)
    chunk.keep("m", m)
    return chunk.current() + params.server_learning_rate * m


def fedadagrad(params: FedAdagradParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """v = v + delta²; model + eta × delta / (√v + tau)."""
    delta = chunk.mean_delta(needs.weights)
    v = chunk.state("v") + delta * delta
    chunk.keep("v", v)
    return chunk.current() + params.eta * delta / (np.sqrt(v) + params.tau)


def fedadam(params: FedAdamParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """m, v = means of delta and delta² that forget by beta_1 and beta_2; model + eta × m / (√v + tau)."""
    delta = chunk.mean_delta(needs.weights)
    m = params.beta_1 * chunk.state("m") + (1 - params.beta_1) * delta
    v = params.beta_2 * chunk.state("v") + (1 - params.beta_2) * (delta * delta)
    chunk.keep("m", m)
    chunk.keep("v", v)
    if params.bias_correction is BiasCorrection.KINGMA:
        rounds: float = needs.found
        m = m / (1 - params.beta_1**rounds)
        v = v / (1 - params.beta_2**rounds)
    return chunk.current() + params.eta * m / (np.sqrt(v) + params.tau)


def fedyogi(params: FedYogiParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """As fedadam, but v moves towards delta² by a share of delta², not of the distance."""
    delta = chunk.mean_delta(needs.weights)
    m = params.beta_1 * chunk.state("m") + (1 - params.beta_1) * delta
    squared = delta * delta
    v = chunk.state("v")
    v -= (1 - params.beta_2) * squared * np.sign(v - squared)
    chunk.keep("m", m)
    chunk.keep("v", v)
    return chunk.current() + params.eta * m / (np.sqrt(v) + params.tau)


FEDAVGM = register(
    Aggregator("fedavgm", FedAvgMParams, mean_delta_needs, fedavgm, deltas=True, state=("m",), by_tensor=True)
)
FEDADAGRAD = register(
    Aggregator("fedadagrad", FedAdagradParams, mean_delta_needs, fedadagrad, deltas=True, state=("v",), by_tensor=True)
)
FEDADAM = register(
    Aggregator(
        "fedadam",
        FedAdamParams,
        fedadam_needs,
        fedadam,
        deltas=True,
        state=("m", "v"),
        scalars={"t": ()},
        by_tensor=True,
    )
)
FEDYOGI = register(
    Aggregator("fedyogi", FedYogiParams, mean_delta_needs, fedyogi, deltas=True, state=("m", "v"), by_tensor=True)
)
