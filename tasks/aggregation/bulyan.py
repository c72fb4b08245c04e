"""Bulyan: picks by Krum, one at a time, then element by element the values nearest the median.

Source: El Mhamdi, Guerraoui and Rouault, ICML 2018. It ignores num_examples.
"""

from __future__ import annotations

import numpy as np

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import TooFewUpdates
from tasks.aggregation.krum import KrumParams, as_matrix, check_room_for_pairs, krum_scores, squared_distances
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray


def fewest_for_bulyan(params: KrumParams) -> int:
    """4f + 3: what Bulyan's guarantee takes."""
    return 4 * params.num_byzantine + 3


def bulyan_needs(params: KrumParams, inputs: Inputs) -> Measuring:
    """Weight 1 for each of the n - 2f picks, 0 for the others; of equal scores the earlier update's is lower."""
    count, byzantine, fewest = len(inputs.updates), params.num_byzantine, fewest_for_bulyan(params)
    if count < fewest:
        raise TooFewUpdates("bulyan", count, fewest, f"4 × num_byzantine + 3, it is {byzantine}")
    check_room_for_pairs("bulyan", inputs)
    distances = as_matrix((yield squared_distances), count)
    left = np.ones(count, dtype=bool)
    picked = []
    for _ in range(count - 2 * byzantine):
        scores = krum_scores(distances, left, byzantine)
        # The last ones left may all be infinitely far from each other.
        best = int(np.flatnonzero(left)[np.argmin(scores[left])])
        picked.append(best)
        left[best] = False
    weights = np.zeros(count)
    weights[picked] = 1.0
    return Needs(
        tuple(weights.tolist()),
        arrays=count + 6,
        found=sorted(picked),
        facts={"picked": picked},
    )


def near_the_median(params: KrumParams, needs: Needs, chunk: Chunk) -> FloatArray:
    """The mean by element of the picks' values nearest their median: all but 2f of them."""
    picked: list[int] = needs.found
    return chunk.kernels.mean_near_median(
        [chunk.raw(index) for index in picked], len(picked) - 2 * params.num_byzantine
    )


BULYAN = register(Aggregator("bulyan", KrumParams, bulyan_needs, near_the_median, fewest=fewest_for_bulyan))
