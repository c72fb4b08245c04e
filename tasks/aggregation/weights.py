"""Numbers of examples as weights: which are refused, and how they are scaled before they multiply anything."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import frexp, fsum, gcd, isfinite, lcm, ldexp

from tasks.aggregation.errors import UpdateUnusable
from tasks.aggregation.streams import UpdateStream


def check_weights(updates: Sequence[UpdateStream]) -> None:
    """Return if every update's num_examples can weigh it. Raises: UpdateUnusable (WEIGHT)."""
    for index, update in enumerate(updates):
        weight = update.num_examples
        if not isfinite(weight) or weight <= 0:
            raise UpdateUnusable(
                index, "WEIGHT", f"num_examples is {weight}; it must be finite and greater than zero", update.label
            )
    try:
        fsum(update.num_examples for update in updates)
    except OverflowError:
        largest = max(range(len(updates)), key=lambda index: updates[index].num_examples)
        reason = f"num_examples is {updates[largest].num_examples}; the sum over all updates is not finite"
        raise UpdateUnusable(largest, "WEIGHT", reason, updates[largest].label) from None


@lru_cache(maxsize=16)
def scaled_weights(weights: tuple[float, ...]) -> tuple[list[float], float]:
    """The weights, and their sum, both times one power of two that brings the sum near 1/2 … 1.

    Multiplying by a power of two rounds nothing, so the mean is the same to the bit; but no product can overflow,
    however large the weights are.
    """
    # Halving before adding: the plain sum of the largest doubles would be infinite.
    count = len(weights)
    margin = count.bit_length()
    exponent = frexp(fsum(ldexp(weight, -margin) for weight in weights))[1] + margin
    scaled = [ldexp(weight, -exponent) for weight in weights]
    return scaled, fsum(scaled)


def whole_weights(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in exactly the same proportions: [2.5, 5.0] are [1, 2]."""
    exact = [Fraction(weight) for weight in weights]
    denominator = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    divisor = gcd(*whole)
    return [weight // divisor for weight in whole]
