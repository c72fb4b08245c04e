"""Krum and multi-Krum: the updates that lie closest to their neighbours, whatever some others send.

Source: Blanchard et al., NeurIPS 2017. They ignore num_examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import InvalidParameter, OutOfBudget, TooFewUpdates
from tasks.aggregation.means import weighted_mean
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray


class KrumParams(AggregatorParams):
    """krum's parameters."""

    num_byzantine: int = Field(ge=0)  # f: how many updates may be arbitrary


class MultiKrumParams(KrumParams):
    """multi_krum's parameters."""

    m: int = Field(ge=1)  # how many are picked and averaged


def fewest_for_krum(params: KrumParams) -> int:
    """2f + 3: what Krum's guarantee takes."""
    return 2 * params.num_byzantine + 3


def fewest_for_multi_krum(params: MultiKrumParams) -> int:
    """Krum's, and enough that m of them can be trusted."""
    return max(fewest_for_krum(params), params.m + params.num_byzantine + 2)


def krum_needs(params: KrumParams, inputs: Inputs) -> Measuring:
    """Weight 1 for the update of the lowest score, 0 for the others."""
    return _pick("krum", params, 1, inputs)


def multi_krum_needs(params: MultiKrumParams, inputs: Inputs) -> Measuring:
    """Weight 1 for the m updates of the lowest scores. Raises: InvalidParameter for more than n - f - 2."""
    most = len(inputs.updates) - params.num_byzantine - 2
    if params.m > max(most, 1):
        raise InvalidParameter(
            "multi_krum", "m", f"{params.m} of {len(inputs.updates)} updates; at most n - num_byzantine - 2 = {most}"
        )
    return _pick("multi_krum", params, params.m, inputs)


def _pick(name: str, params: KrumParams, picks: int, inputs: Inputs) -> Measuring:
    count, num_byzantine, fewest = len(inputs.updates), params.num_byzantine, fewest_for_krum(params)
    if count < fewest:
        raise TooFewUpdates(name, count, fewest, f"2 × num_byzantine + 3, it is {num_byzantine}")
    check_room_for_pairs(name, inputs)
    distances = as_matrix((yield squared_distances), count)
    scores = krum_scores(distances, np.ones(count, dtype=bool), num_byzantine)
    # A stable sort: of equal scores the earlier update's counts as lower.
    picked = np.sort(np.argsort(scores, kind="stable")[:picks])
    weights = np.zeros(count)
    weights[picked] = 1.0
    return Needs(tuple(weights.tolist()), arrays=3, facts={"picked": picked.tolist()})


def check_room_for_pairs(name: str, inputs: Inputs) -> None:
    """Return if the distances of all pairs fit half the budget, twice. Raises: OutOfBudget."""
    needed = 8 * 2 * len(inputs.updates) ** 2
    if needed > inputs.budget_bytes and len(inputs.updates) > _ALWAYS_FIT:
        raise OutOfBudget(name, needed, inputs.budget_bytes)


_ALWAYS_FIT = 64


def squared_distances(chunk: Chunk) -> FloatArray:
    """The fold: what a segment adds to the squared distance of every pair."""
    return chunk.kernels.squared_distances(chunk.all_raw())


def as_matrix(pairs: FloatArray, count: int) -> FloatArray:
    """Distances by pair as a symmetric matrix with zeros on its diagonal. Shape (count, count)."""
    matrix = np.zeros((count, count), np.float64)
    if pairs.size:
        lower = np.tril_indices(count, -1)
        matrix[lower] = pairs
        matrix.T[lower] = pairs
    return matrix


def krum_scores(distances: FloatArray, left: NDArray[np.bool_], num_byzantine: int) -> FloatArray:
    """For each update: the sum of its squared distances to the nearest n - f - 2 others of the n that are left.

    At least one neighbour counts, so that Bulyan can pick down to the last; an update that is not left scores
    infinity. Shape (updates,).
    """
    neighbours = max(1, int(left.sum()) - num_byzantine - 2)
    # Neither itself nor what has gone is anybody's neighbour; infinities go to a row's end.
    to_others = np.where(left[None, :] & ~np.eye(len(left), dtype=bool), distances, np.inf)
    to_others.sort(axis=1)
    # Added one after another: a plain sum's order is the processor's choice.
    scores: FloatArray = np.cumsum(to_others[:, :neighbours], axis=1)[:, -1]
    scores[~left] = np.inf
    return scores


KRUM = register(Aggregator("krum", KrumParams, krum_needs, weighted_mean, fewest=fewest_for_krum))
MULTI_KRUM = register(
    Aggregator("multi_krum", MultiKrumParams, multi_krum_needs, weighted_mean, fewest=fewest_for_multi_krum)
)
