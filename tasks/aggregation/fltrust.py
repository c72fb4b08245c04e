"""FLTrust: an update counts by how far it points the way of one trained on trusted data.

Source: Cao et al., NDSS 2021. It ignores num_examples.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Measuring, Needs, register
from tasks.aggregation.streams import FloatArray

_ROOT = "root_update"


class FLTrustParams(AggregatorParams):
    """fltrust's parameters."""

    root_update: str = Field(min_length=1)  # names the trusted model: arrays in combine(), a client in the hub


def fltrust_needs(params: FLTrustParams, inputs: Inputs) -> Measuring:  # noqa: ARG001  # one signature for all
    """Trust scores: the cosine with the root's delta, nothing for a delta that points away or nowhere."""
    measured = yield _norms_and_products
    squares, products = measured[: 2 * len(inputs.updates)].reshape(-1, 2).T.tolist()
    root = sqrt(measured[-1])
    scores, coefficients = [], []
    for square, product in zip(squares, products, strict=True):
        norm = sqrt(square)
        known = root > 0 and 0 < norm < np.inf
        score = min(1.0, max(0.0, product / (norm * root))) if known else 0.0
        scores.append(score)
        coefficients.append(score * root / norm if score else 0.0)
    total = sum(scores)
    if total:
        coefficients = [coefficient / total for coefficient in coefficients]
    return Needs(tuple(scores), arrays=5, found=coefficients, facts={"trust_scores": scores})


def fltrust(params: FLTrustParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The model plus the deltas, each made as long as the root's, averaged by trust; nobody trusted: as it was."""
    return chunk.current() + chunk.weighted_deltas(needs.found)


def _norms_and_products(chunk: Chunk) -> FloatArray:
    """By update: delta², delta × root's delta; last, the root's delta²."""
    root_delta = chunk.reference(_ROOT) - chunk.current()
    of_updates = chunk.kernels.moments(chunk.all_raw(), chunk.all_raw_bases(), None, root_delta)
    of_root = chunk.kernels.moments([chunk.raw_reference(_ROOT)], [chunk.raw_current()])
    return np.append(of_updates.reshape(-1), of_root[0, 0])


FLTRUST = register(Aggregator("fltrust", FLTrustParams, fltrust_needs, fltrust, deltas=True, references=(_ROOT,)))
