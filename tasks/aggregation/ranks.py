"""Aggregators that go by rank, element by element: the median and the trimmed mean. They ignore num_examples."""

from __future__ import annotations

from math import floor

from pydantic import Field

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import InvalidParameter
from tasks.aggregation.means import alike
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, Inputs, Needs, register
from tasks.aggregation.streams import FloatArray

_NOBODY_HAS_SO_MANY = 1e15  # and one more is still another number in binary


class TrimmedMeanParams(AggregatorParams):
    """trimmed_mean's parameters."""

    beta: float = Field(default=0.2, gt=0, lt=0.5)  # the share dropped at each end


def rank_needs(params: AggregatorParams, inputs: Inputs) -> Needs:  # noqa: ARG001  # one signature for all
    """All updates' elements at once, and the outcome."""
    return Needs(alike(inputs), arrays=len(inputs.updates) + 3)


def median(params: AggregatorParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001  # one signature for all
    """The middle value by element; of an even number, the mean of the middle two.

    Source: Yin et al., ICML 2018, Option I of Algorithm 1.
    """
    count = len(chunk.updates)
    return chunk.sorted_mean((count - 1) // 2, count // 2 + 1)


def fewest_for_trimmed_mean(params: TrimmedMeanParams) -> int:
    """So many that one goes at each end."""
    count = floor(min(1 / params.beta, _NOBODY_HAS_SO_MANY))
    # By the very product that decides the trim: 49 × (1 / 49) is a little less than 1 in binary.
    return count if floor(params.beta * count) else count + 1


def trimmed_mean_needs(params: TrimmedMeanParams, inputs: Inputs) -> Needs:
    """As the median's, and how many values go at each end. Raises: InvalidParameter for a trim of zero."""
    count = len(inputs.updates)
    trim = floor(params.beta * count)
    if trim == 0:
        raise InvalidParameter(
            "trimmed_mean",
            "beta",
            f"{params.beta} of {count} updates drops none at either end, which protects against nothing: "
            f"give {1 / count:.3g} or more, or wait for more updates",
        )
    return Needs(alike(inputs), arrays=count + 3, found=trim, facts={"trimmed_at_each_end": trim})


def trimmed_mean(params: TrimmedMeanParams, needs: Needs, chunk: Chunk) -> FloatArray:  # noqa: ARG001
    """The mean by element of what is left of the values when the largest and the smallest have gone.

    Source: Yin et al., ICML 2018, Option II of Algorithm 1.
    """
    return chunk.sorted_mean(needs.found, len(chunk.updates) - needs.found)


MEDIAN = register(Aggregator("median", AggregatorParams, rank_needs, median, by_tensor=True))
TRIMMED_MEAN = register(
    Aggregator("trimmed_mean", TrimmedMeanParams, trimmed_mean_needs, trimmed_mean, fewest=fewest_for_trimmed_mean)
)
