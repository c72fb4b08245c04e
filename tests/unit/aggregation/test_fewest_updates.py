"""What an aggregator says it takes at least is what it takes: one fewer is refused, so many are not."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import pytest

from tasks.aggregation import (
    InvalidParameter,
    TooFewUpdates,
    UnknownAggregator,
    UpdateArrays,
    combine,
    fewest_updates,
)

_DP = {"clip": 1.0, "delta": 1e-5, "adaptive_clip": True}

CASES: list[tuple[str, dict[str, Any], int]] = [
    *(("krum", {"num_byzantine": f}, 2 * f + 3) for f in (0, 1, 4)),
    ("multi_krum", {"num_byzantine": 1, "m": 1}, 5),
    ("multi_krum", {"num_byzantine": 1, "m": 2}, 5),
    ("multi_krum", {"num_byzantine": 1, "m": 4}, 7),
    *(("bulyan", {"num_byzantine": f}, 4 * f + 3) for f in (0, 2)),
    ("trimmed_mean", {}, 5),
    ("trimmed_mean", {"beta": 0.49}, 3),
    ("trimmed_mean", {"beta": 0.3}, 4),
    ("trimmed_mean", {"beta": 1 / 3}, 3),
    ("trimmed_mean", {"beta": 1 / 49}, 50),  # 49 × (1 / 49) is a little less than 1 in binary
    ("dp_fedavg", _DP | {"noise_multiplier": 1.0}, 11),
    ("dp_fedavg", _DP | {"noise_multiplier": 0.25}, 3),
    ("dp_fedavg", _DP | {"noise_multiplier": 0.3}, 4),
]


@pytest.mark.parametrize(("aggregator", "params", "fewest"), CASES)
def test_so_many_are_taken_and_one_fewer_is_refused(aggregator: str, params: dict[str, Any], fewest: int) -> None:
    def run(count: int) -> None:
        updates = [UpdateArrays({"w": np.array([float(value)])}) for value in range(count)]
        combine(aggregator, params, updates, current={"w": np.zeros(1)})

    assert fewest_updates(aggregator, params) == fewest
    run(fewest)
    with pytest.raises((TooFewUpdates, InvalidParameter)):
        run(fewest - 1)


@pytest.mark.parametrize("denominator", [*range(3, 200), 1_000, 12_345, 10**9])
def test_a_trimmed_mean_takes_as_few_as_let_one_go_at_each_end(denominator: int) -> None:
    """By the product that decides it, rounding and all."""
    fewest = fewest_updates("trimmed_mean", {"beta": 1 / denominator})
    assert (floor((fewest - 1) * (1 / denominator)), floor(fewest * (1 / denominator))) == (0, 1)


def test_an_aggregator_that_says_nothing_takes_any_number() -> None:
    assert fewest_updates("fedavg", {}) == 1
    assert fewest_updates("dp_fedavg", {"clip": 1.0, "delta": 1e-5, "noise_multiplier": 9.0}) == 1


def test_parameters_without_measure_ask_for_more_than_anybody_has() -> None:
    """They neither overflow nor loop: the round waits."""
    assert fewest_updates("trimmed_mean", {"beta": 5e-324}) >= 10**15
    assert fewest_updates("dp_fedavg", _DP | {"noise_multiplier": 1.7e308}) >= 10**15


def test_names_and_parameters_are_checked() -> None:
    with pytest.raises(UnknownAggregator):
        fewest_updates("crumb", {})
    with pytest.raises(InvalidParameter, match="num_byzantine"):
        fewest_updates("krum", {})
