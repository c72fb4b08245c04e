"""Aggregators for clients that don't wait for each other: fedasync and fedbuff.

Sources: Xie, Koyejo and Gupta, 2019 (fedasync); Nguyen et al., AISTATS 2022 (fedbuff).
"""

from __future__ import annotations

from enum import StrEnum
from math import sqrt

from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import UpdateUnusable
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Needs, register
from tasks.aggregation.streams import FloatArray


class StalenessFunction(StrEnum):
    """How an update loses weight with the number of aggregates that came after its base."""

    CONSTANT = "constant"
    POLYNOMIAL = "polynomial"
    HINGE = "hinge"


class FedAsyncParams(AggregatorParams):
    """fedasync's parameters."""

    alpha: float = Field(default=0.6, gt=0, le=1)
    staleness_function: StalenessFunction = StalenessFunction.CONSTANT
    polynomial_a: float = Field(default=0.5, gt=0)
    hinge_a: float = Field(default=10.0, gt=0)
    hinge_b: float = Field(default=4.0, ge=0)


class FedBuffParams(AggregatorParams):
    """fedbuff's parameters."""

    buffer_size: int = Field(ge=1)  # how many updates a round waits for; a round of others divides by their number
    eta: float = Field(default=1.0, gt=0)


def fedasync_needs(params: FedAsyncParams, inputs: Inputs) -> Needs:
    """What is left of each update's mixing once the later ones were mixed in."""
    _check_staleness(inputs)
    alphas = [params.alpha * staleness_factor(params, update.staleness) for update in inputs.updates]
    left, coefficients = 1.0, []
    for alpha in reversed(alphas):
        coefficients.append(alpha * left)
        left *= 1 - alpha
    coefficients.reverse()
    return Needs(tuple(coefficients), arrays=4, facts={"alphas": alphas})


def fedasync(params: FedAsyncParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001  # one signature for all
    """model = (1 - alpha) × model + alpha × update, for one update after another, in the order given."""
    return chunk.current() + chunk.weighted_offsets(needs.weights)


def staleness_factor(params: FedAsyncParams, staleness: int) -> float:
    """What alpha is multiplied by; 1 for a fresh update."""
    match params.staleness_function:
        case StalenessFunction.POLYNOMIAL:
            return float((1 + staleness) ** -params.polynomial_a)
        case StalenessFunction.HINGE if staleness > params.hinge_b:
            return 1 / (params.hinge_a * (staleness - params.hinge_b) + 1)
        case _:
            return 1.0


def fedbuff_needs(params: FedBuffParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """One over the square root of one plus the staleness: a fresh update counts whole."""
    _check_staleness(inputs)
    return Needs(tuple(1 / sqrt(1 + update.staleness) for update in inputs.updates), arrays=4)


def fedbuff(params: FedBuffParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """model + eta × the sum of the weighted deltas, each from its own base, over their number."""
    step = chunk.weighted_deltas(needs.weights)
    step *= params.eta
    step /= len(chunk.updates)
    return chunk.current() + step


def _check_staleness(inputs: Inputs) -> None:
    for index, update in enumerate(inputs.updates):
        if update.staleness < 0:
            raise UpdateUnusable(
                index, "WEIGHT", f"staleness is {update.staleness}; no update is from the future", update.label
            )


FEDASYNC = register(Aggregator("fedasync", FedAsyncParams, fedasync_needs, fedasync, deltas=True, by_tensor=True))
FEDBUFF = register(Aggregator("fedbuff", FedBuffParams, fedbuff_needs, fedbuff, deltas=True, by_tensor=True))
