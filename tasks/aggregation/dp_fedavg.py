"""dp_fedavg: a mean of clipped deltas with Gaussian noise, and a ledger of what privacy that has cost.

Sources: McMahan et al., ICLR 2018 (DP-FedAvg); Andrew et al., NeurIPS 2021, Algorithm 1 (the adaptive clip).
The privacy is the client's: neighbouring rounds differ by one client's whole update, there or not. The ledger is Rényi
costs by order; the report's epsilon is of all rounds so far, by the classic conversion unless `conversion` says
`improved`, which is dp-accounting's own and lower. The ledger and the noise are the same (privacy.py). Integer and
boolean tensors stay as the current model has them: without noise, each would show a client.
"""

from __future__ import annotations

from math import exp, floor, sqrt
from typing import Any

from pydantic import Field, model_validator

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.clipping import clip_factors, count_clipped, squared_norms_of_deltas
from tasks.aggregation.errors import InvalidParameter
from tasks.aggregation.means import alike
from tasks.aggregation.noise import new_seed, normal_deviates
from tasks.aggregation.params import AggregatorParams, IntegerPolicy
from tasks.aggregation.privacy import ORDERS, Conversion, epsilon, rdp_of_round
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray

_COUNT_STREAM = 0  # of noise; tensors follow
_NOBODY_HAS_SO_MANY = 1e15  # updates


class DPFedAvgParams(AggregatorParams):
    """dp_fedavg's parameters."""

    clip: float = Field(gt=0)  # the longest delta, over the whole model; where it adapts, the first round's
    noise_multiplier: float = Field(gt=0)  # the noise on the sum, over the clip
    delta: float = Field(gt=0, lt=1)  # well below one over the number of clients
    sampling_rate: float = Field(default=1.0, gt=0, le=1)  # below 1 only if clients truly take part by chance
    adaptive_clip: bool = False
    target_quantile: float = Field(default=0.5, ge=0, le=1)  # of deltas, that the clip is led to leave as they are
    clip_learning_rate: float = Field(default=0.2, gt=0)
    keep_noise_seed: bool = False  # in the report: whoever reads it can take the noise away again
    conversion: Conversion = Conversion.CLASSIC  # of the ledger into the report's epsilon; the noise is the same

    @model_validator(mode="after")
    def _refuse_a_policy_that_would_show_clients(self) -> DPFedAvgParams:
        if self.integers is not IntegerPolicy.ROUNDED_MEAN:
            raise ValueError("integers are left as the current model has them: leave `integers` out")
        return self


def fewest_for_dp_fedavg(params: DPFedAvgParams) -> int:
    """One; with an adaptive clip so many that counting the clipped is noise enough (_noise_beside_count)."""
    return floor(min(10 * params.noise_multiplier, _NOBODY_HAS_SO_MANY)) + 1 if params.adaptive_clip else 1


def dp_fedavg_needs(params: DPFedAvgParams, inputs: Inputs) -> Measuring:
    """How much each delta is shortened, the noise, the next clip, and the ledger with this round in it.

    Raises: InvalidParameter where counting the clipped for an adaptive clip would take more noise than there is.
    """
    count = len(inputs.updates)
    clip = params.clip if inputs.is_first else float(inputs.scalars["clip"])
    squares = yield squared_norms_of_deltas
    _norms, factors = clip_factors(squares, clip)
    seed = inputs.noise_seed or new_seed()
    next_clip, on_deltas = clip, params.noise_multiplier
    if params.adaptive_clip:
        on_count = count / 20
        on_deltas = _noise_beside_count(params.noise_multiplier, on_count)
        # The true number must stay inside: only the noisy share leaves, as the next clip.
        kept = count - count_clipped(factors) + on_count * float(normal_deviates(seed, _COUNT_STREAM, 0, 1)[0])
        next_clip = clip * exp(-params.clip_learning_rate * (kept / count - params.target_quantile))
    ledger = inputs.scalars["ledger"] + rdp_of_round(params.sampling_rate, params.noise_multiplier)
    facts: dict[str, Any] = {
        "clip": clip,
        "noise_std": on_deltas * clip / count,
        "epsilon": epsilon(ledger, params.delta, params.conversion),
    }
    facts |= {"delta": params.delta, "rounds": int(inputs.scalars["rounds"]) + 1}
    if params.keep_noise_seed:
        facts["noise_seed"] = seed.hex()
    return Needs(
        alike(inputs),
        arrays=24,
        found=([factor / count for factor in factors], on_deltas * clip / count, seed),
        scalars={"clip": next_clip, "ledger": ledger, "rounds": inputs.scalars["rounds"] + 1},
        facts=facts,
    )


def dp_fedavg(params: DPFedAvgParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The model plus the mean of the clipped deltas plus noise of its own for every element."""
    coefficients, deviation, seed = needs.found
    noise = normal_deviates(seed, _COUNT_STREAM + 1 + chunk.tensor_index, chunk.start, chunk.stop)
    noise *= deviation
    noise += chunk.weighted_deltas(coefficients)
    return chunk.current() + noise


def _noise_beside_count(noise_multiplier: float, on_count: float) -> float:
    """The multiplier for deltas that, with the count's noise, costs as much as `noise_multiplier` alone would."""
    left = noise_multiplier**-2 - (2 * on_count) ** -2
    if left <= 0:
        raise InvalidParameter(
            "dp_fedavg",
            "noise_multiplier",
            f"{noise_multiplier} is more than an adaptive clip allows for so few updates: at most {2 * on_count:.3g}",
        )
    return 1 / sqrt(left)


DP_FEDAVG = register(
    Aggregator(
        "dp_fedavg",
        DPFedAvgParams,
        dp_fedavg_needs,
        dp_fedavg,
        deltas=True,
        scalars={"clip": (), "ledger": (len(ORDERS),), "rounds": ()},
        # Without a model to start from nothing bounds a delta, and a plain mean would show it.
        may_start_from_mean=False,
        floats_only=True,
        fewest=fewest_for_dp_fedavg,
    )
)
