"""Aggregators for clients that differ in data or effort: fednova, scaffold, feddyn, qfedavg.

Sources: Wang et al., NeurIPS 2020 (fednova); Karimireddy et al., ICML 2020 (scaffold, option II); Acar et al.,
ICLR 2021 (feddyn); Li et al., ICLR 2020 (qfedavg, Algorithm 2).
"""

from __future__ import annotations

from math import fsum, isfinite

from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.clipping import squared_norms_of_deltas
from tasks.aggregation.errors import InvalidParameter, UpdateUnusable
from tasks.aggregation.means import alike, by_examples
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray
from tasks.aggregation.weights import scaled_weights

_LEAST_LOSS = 1e-10  # a loss of 0 would be raised to a negative power


class ScaffoldParams(AggregatorParams):
    """scaffold's parameters."""

    local_learning_rate: float = Field(gt=0)  # the clients'
    num_clients: int = Field(ge=1)  # all that take part in the training, not only in this round
    server_learning_rate: float = Field(default=1.0, gt=0)


class FedDynParams(AggregatorParams):
    """feddyn's parameters."""

    alpha: float = Field(gt=0)
    num_clients: int = Field(ge=1)  # all that take part in the training, not only in this round


class QFedAvgParams(AggregatorParams):
    """qfedavg's parameters."""

    q: float = Field(default=0.1, ge=0)  # 0: all clients count alike; the larger, the more a high loss counts
    lipschitz: float = Field(default=1.0, gt=0)  # one over the clients' learning rate


# --- fednova ------------------------------------------------------------------------------------------------------


def fednova_needs(params: AggregatorParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """Each delta per step, times the steps that all took on average. Raises: UpdateUnusable (WEIGHT)."""
    steps = _steps(inputs)
    weights = by_examples(inputs)
    scaled, total = scaled_weights(weights)
    effective = fsum(weight / total * count for weight, count in zip(scaled, steps, strict=True))
    coefficients = [weight / total * effective / count for weight, count in zip(scaled, steps, strict=True)]
    return Needs(weights, arrays=4, found=coefficients, facts={"effective_steps": effective})


def fednova(params: AggregatorParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The model plus the mean delta per step, weighted by num_examples, times the mean number of steps."""
    return chunk.current() + chunk.weighted_deltas(needs.found)


# --- scaffold -----------------------------------------------------------------------------------------------------


def scaffold_needs(params: ScaffoldParams, inputs: Inputs) -> Needs:
    """One over steps × local_learning_rate: what turns a delta into a gradient. Raises: UpdateUnusable (WEIGHT)."""
    _check_population("scaffold", params.num_clients, inputs)
    per_gradient = [1 / (count * params.local_learning_rate) for count in _steps(inputs)]
    return Needs(alike(inputs), arrays=6, found=per_gradient)


def scaffold(params: ScaffoldParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """The model plus server_learning_rate × the mean delta; c moves towards the clients' mean gradient.

    A client's new control variate is its old one - c - delta / (steps × local_learning_rate), so the server can work
    out the sum of what they changed by from deltas and c alone.
    """
    c = chunk.state("c")
    changes = chunk.weighted_deltas(needs.found) + len(chunk.updates) * c
    chunk.keep("c", c - changes / params.num_clients)
    return chunk.current() + params.server_learning_rate * chunk.mean_delta(needs.weights)


# --- feddyn -------------------------------------------------------------------------------------------------------


def feddyn_needs(params: FedDynParams, inputs: Inputs) -> Needs:
    """All count alike."""
    _check_population("feddyn", params.num_clients, inputs)
    return Needs(alike(inputs), arrays=5)


def feddyn(params: FedDynParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """h = h - alpha × sum of deltas / num_clients; the mean of the updates - h / alpha."""
    h = chunk.state("h") - params.alpha / params.num_clients * chunk.weighted_deltas(needs.weights)
    chunk.keep("h", h)
    return chunk.mean(needs.weights) - h / params.alpha


# --- qfedavg ------------------------------------------------------------------------------------------------------


def qfedavg_needs(params: QFedAvgParams, inputs: Inputs) -> Measuring:
    """Each delta times its loss to the q, over the sum of h. Raises: UpdateUnusable (WEIGHT) without a loss."""
    losses = []
    for index, update in enumerate(inputs.updates):
        if update.loss is None or not isfinite(update.loss) or update.loss < 0:
            raise UpdateUnusable(
                index, "WEIGHT", f"its loss is {update.loss}; qfedavg needs one of 0 or more", update.label
            )
        losses.append(max(update.loss, _LEAST_LOSS))
    squares = yield squared_norms_of_deltas
    q, lipschitz = params.q, params.lipschitz
    weights = [loss**q for loss in losses]
    total = fsum(
        q * loss ** (q - 1) * lipschitz**2 * square + lipschitz * weight
        for loss, weight, square in zip(losses, weights, squares.tolist(), strict=True)
    )
    coefficients = [lipschitz * weight / total for weight in weights]
    return Needs(tuple(weights), arrays=4, found=coefficients)


def qfedavg(params: QFedAvgParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The model plus the sum of loss^q × lipschitz × delta, over the sum of h."""
    return chunk.current() + chunk.weighted_deltas(needs.found)


def _steps(inputs: Inputs) -> list[int]:
    steps = []
    for index, update in enumerate(inputs.updates):
        if update.num_steps is None or update.num_steps < 1:
            raise UpdateUnusable(
                index, "WEIGHT", f"num_steps is {update.num_steps}; it must be told, and 1 or more", update.label
            )
        steps.append(update.num_steps)
    return steps


def _check_population(name: str, num_clients: int, inputs: Inputs) -> None:
    if num_clients < len(inputs.updates):
        raise InvalidParameter(
            name, "num_clients", f"{num_clients} clients in all, but {len(inputs.updates)} updates in this round"
        )


FEDNOVA = register(Aggregator("fednova", AggregatorParams, fednova_needs, fednova, deltas=True))
SCAFFOLD = register(Aggregator("scaffold", ScaffoldParams, scaffold_needs, scaffold, deltas=True, state=("c",)))
FEDDYN = register(Aggregator("feddyn", FedDynParams, feddyn_needs, feddyn, deltas=True, state=("h",)))
QFEDAVG = register(Aggregator("qfedavg", QFedAvgParams, qfedavg_needs, qfedavg, deltas=True))
